//! The creation of the bucket, on a single server and in a cluster that may have just started.

use std::time::Duration;

use super::bucket::{Outcome, REPLICAS};
use super::{ASK_MAX, Answer};
use crate::nats::{Cause, Link};

/// Time for the servers of a cluster to find each other, before the bucket is made with one replica.
const GATHERING: Duration = Duration::from_secs(4);
/// Rounds over all servers after which the start has failed, if the attempts were too slow. Any other failure counts at once.
const SLOW_ROUNDS: u64 = 3;

/// The requests to create the bucket, since the link came up.
#[derive(Debug)]
pub(super) struct Creation {
    /// Replicas of the bucket: one, if the engine has refused more.
    pub(super) replicas: u64,
    /// When the engine was not ready for the first time.
    since: Option<Duration>,
}

/// The consequence of an outcome.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The outcome is final.
    Take(Outcome),
    /// The engine is asked at once for fewer replicas.
    AskAtOnce,
    /// The engine is asked again in a second.
    AskLater,
}

impl Default for Creation {
    fn default() -> Self {
        Creation { replicas: REPLICAS, since: None }
    }
}

impl Creation {
    /// Decides by the outcome of the latest request.
    pub(super) fn next(&mut self, outcome: Outcome, now: Duration) -> Next {
        let is_within = |limit, since: &mut Option<Duration>| now < *since.get_or_insert(now) + limit;
        match outcome {
            Outcome::Plain(Answer::Failed) if is_within(ASK_MAX, &mut self.since) => Next::AskLater,
            Outcome::TooFewServers(_) if self.replicas > 1 && is_within(GATHERING, &mut self.since) => Next::AskLater,
            // A server alone has no replicas, and a cluster may have fewer servers than the bucket has replicas.
            Outcome::Error(text) | Outcome::TooFewServers(text) if self.replicas > 1 => {
                log::debug!("NATS: no bucket with {} replicas ({text}), one replica then", self.replicas);
                self.replicas = 1;
                Next::AskAtOnce
            }
            outcome => {
                if outcome == Outcome::Plain(Answer::Done) {
                    self.since = None;
                }
                Next::Take(outcome)
            }
        }
    }
}

/// Whether the first connection has failed for good, with this cause of the latest attempt. Each address is tried at least once. An attempt
/// that was too slow is repeated, because the machine or the network may be slow at the start.
pub(super) fn has_failed<M: Send + 'static>(cause: &Cause, link: &Link<'_, '_, M>) -> bool {
    let rounds = if *cause == Cause::TooSlow { SLOW_ROUNDS } else { 1 };
    link.failures() >= link.round() as u64 * rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_server_alone_gets_one_replica_and_a_cluster_gets_time_to_gather() {
        let refused = || Outcome::Error("replicas > 1 not supported in non-clustered mode".into());
        let few = || Outcome::TooFewServers("no suitable peers for placement".into());
        let mut alone = Creation::default();
        assert_eq!((alone.next(refused(), SECOND), alone.replicas), (Next::AskAtOnce, 1));
        assert_eq!(alone.next(refused(), SECOND), Next::Take(refused()), "another reason");
        let mut cluster = Creation::default();
        for second in 1..5 {
            assert_eq!((cluster.next(few(), SECOND * second), cluster.replicas), (Next::AskLater, 3));
        }
        assert_eq!((cluster.next(few(), SECOND * 5), cluster.replicas), (Next::AskAtOnce, 1));
        assert_eq!(cluster.next(few(), SECOND * 5), Next::Take(few()));
    }

    #[test]
    fn an_engine_without_a_leader_is_asked_for_eight_seconds() {
        let failed = || Outcome::Plain(Answer::Failed);
        let mut creation = Creation::default();
        assert_eq!(creation.next(failed(), SECOND), Next::AskLater);
        assert_eq!(creation.next(failed(), SECOND * 8), Next::AskLater);
        assert_eq!(creation.next(failed(), SECOND * 9), Next::Take(failed()));
        let done = || Outcome::Plain(Answer::Done);
        assert_eq!((creation.next(done(), SECOND * 10), creation.replicas), (Next::Take(done()), 3));
        assert_eq!(creation.next(failed(), SECOND * 30), Next::AskLater, "the time begins anew");
    }
}
