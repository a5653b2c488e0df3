//! The bucket in JetStream's words: the subjects and JSON of requests, and the meaning of answers.
//!
//! A bucket is a stream that keeps the latest message of each subject. A value is deleted by its number in the stream, so a later
//! value of the key is never deleted by mistake; then the key counts as one without a value. NATS 2.9 can do all of it.

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{Answer, Request};

/// JetStream's errors for a key that has another revision: with the revision, and, since 2.11, without.
const WRONG_REVISION: [u64; 2] = [10071, 10164];
/// JetStream's errors for a missing stream.
const NO_STREAM: [u64; 2] = [10059, 10060];
/// JetStream's errors for a missing value: of reading, of deleting, and of deleting what has just been deleted.
const NO_MESSAGE: [u64; 3] = [10037, 10057, 10043];
/// The error for a stream that exists with other settings, such as other replicas: an operator's choice.
const OTHER_SETTINGS: u64 = 10058;
/// The errors of a cluster that has no leader at present, of a server that is not the leader, and, since 2.11, of a leader that has another
/// change of the key under way.
const NOT_NOW: [u64; 3] = [10008, 10009, 10163];
/// The error of a cluster that has fewer servers than the stream has replicas, at present or for good.
const NO_PEERS: u64 = 10005;
/// Replicas of a new stream in a cluster: the bucket survives the end of any one server.
pub(super) const REPLICAS: u64 = 3;

/// The header field for the expected revision.
pub(super) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// A request as a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) subject: String,
    pub(super) payload: String,
    /// The value of the header field [`EXPECTED`].
    pub(super) expected: Option<String>,
}

/// The kind of a request, by which the answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    Put,
    Get,
    Delete,
}

/// An answer with a value of its own, not borrowed from the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Plain(Answer<'static>),
    Found {
        revision: u64,
        value: Vec<u8>,
    },
    /// The cluster has too few servers for the replicas, with its text.
    TooFewServers(String),
    /// An error of the engine's that the node does not expect, with its text.
    Error(String),
}

/// The name of a room's stream.
pub(super) fn stream(room: &str) -> String {
    format!("KV_glowplug_{room}")
}

fn subject(room: &str, key: &str) -> String {
    format!("$KV.glowplug_{room}.{key}")
}

impl Request {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Request::Create => Kind::Create,
            Request::Put { .. } => Kind::Put,
            Request::Get { .. } => Kind::Get,
            Request::Delete { .. } => Kind::Delete,
        }
    }

    /// The request as a message. A stream that does not exist is created with `replicas` replicas.
    pub(super) fn message(&self, room: &str, replicas: u64) -> Message {
        let stream = stream(room);
        let api = |verb: &str, payload: Value| Message {
            subject: format!("$JS.API.STREAM.{verb}.{stream}"),
            payload: payload.to_string(),
            expected: None,
        };
        match self {
            Request::Create => {
                let settings = json!({
                    "name": stream, "subjects": [subject(room, ">")], "max_msgs_per_subject": 1, "discard": "new",
                    "storage": "file", "num_replicas": replicas,
                });
                api("CREATE", settings)
            }
            Request::Put { key, value, expected } => {
                Message { subject: subject(room, key), payload: value.clone(), expected: Some(expected.to_string()) }
            }
            Request::Get { key } => api("MSG.GET", json!({ "last_by_subj": subject(room, key) })),
            Request::Delete { revision } => api("MSG.DELETE", json!({ "seq": revision, "no_erase": true })),
        }
    }
}

/// Reads the answer to a request of this kind.
pub(super) fn outcome(kind: Kind, payload: &[u8]) -> Outcome {
    let Ok(answer) = serde_json::from_slice::<Value>(payload) else { return Outcome::Plain(Answer::Failed) };
    if let Some(error) = answer.get("error") {
        let code = error["err_code"].as_u64().unwrap_or(0);
        let text = || error["description"].as_str().unwrap_or("an error without a text").to_owned();
        return match (kind, code) {
            (Kind::Create, NO_PEERS) => Outcome::TooFewServers(text()),
            (Kind::Create, OTHER_SETTINGS) => Outcome::Plain(Answer::Done),
            (_, code) if NOT_NOW.contains(&code) => Outcome::Plain(Answer::Failed),
            (_, code) if WRONG_REVISION.contains(&code) => Outcome::Plain(Answer::Conflict),
            (_, code) if NO_MESSAGE.contains(&code) => Outcome::Plain(Answer::Missing),
            (_, code) if NO_STREAM.contains(&code) => Outcome::Plain(Answer::NoBucket),
            _ => Outcome::Error(text()),
        };
    }
    let known = match kind {
        Kind::Create => answer.get("config").map(|_| Outcome::Plain(Answer::Done)),
        Kind::Delete => answer["success"].as_bool().filter(|done| *done).map(|_| Outcome::Plain(Answer::Done)),
        Kind::Put => answer["seq"].as_u64().map(|revision| Outcome::Plain(Answer::Stored(revision))),
        Kind::Get => found(&answer["message"]),
    };
    known.unwrap_or(Outcome::Plain(Answer::Failed))
}

fn found(message: &Value) -> Option<Outcome> {
    let revision = message["seq"].as_u64()?;
    // An empty value has no data.
    let data = message["data"].as_str().unwrap_or("");
    Some(Outcome::Found { revision, value: BASE64.decode(data.as_bytes()).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers are those of nats-server 2.9.10, and, where they differ, of 2.15.1.
    #[test]
    fn each_answer_of_the_engine_has_its_meaning() {
        let plain = Outcome::Plain;
        let table = [
            (
                Kind::Create,
                r#"{"type":"x","config":{"name":"KV_glowplug_lobby"},"did_create":true}"#,
                plain(Answer::Done),
            ),
            (
                Kind::Create,
                r#"{"error":{"code":400,"err_code":10058,"description":"stream name already in use with a different configuration"}}"#,
                plain(Answer::Done),
            ),
            (
                Kind::Create,
                r#"{"error":{"code":503,"err_code":10039,"description":"jetstream not enabled for account"}}"#,
                Outcome::Error("jetstream not enabled for account".into()),
            ),
            (
                Kind::Create,
                r#"{"error":{"code":500,"err_code":10074,"description":"replicas > 1 not supported in non-clustered mode"}}"#,
                Outcome::Error("replicas > 1 not supported in non-clustered mode".into()),
            ),
            (
                Kind::Create,
                r#"{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}"#,
                plain(Answer::Failed),
            ),
            (
                Kind::Create,
                r#"{"error":{"code":400,"err_code":10005,"description":"no suitable peers for placement"}}"#,
                Outcome::TooFewServers("no suitable peers for placement".into()),
            ),
            (Kind::Put, r#"{"stream":"KV_glowplug_lobby", "seq":7}"#, plain(Answer::Stored(7))),
            (
                Kind::Put,
                r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"},"stream":"x","seq":0}"#,
                plain(Answer::Conflict),
            ),
            (
                Kind::Get,
                r#"{"type":"x","message":{"subject":"$KV.glowplug_lobby.name.aa","seq":2,"hdrs":"TkFU","data":"djM="}}"#,
                Outcome::Found { revision: 2, value: b"v3".to_vec() },
            ),
            (
                Kind::Get,
                r#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#,
                plain(Answer::Missing),
            ),
            (Kind::Delete, r#"{"type":"x","success":true}"#, plain(Answer::Done)),
            (
                Kind::Delete,
                r#"{"error":{"code":500,"err_code":10057,"description":"no message found"}}"#,
                plain(Answer::Missing),
            ),
            (
                Kind::Delete,
                r#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#,
                plain(Answer::NoBucket),
            ),
            (
                Kind::Delete,
                r#"{"error":{"code":400,"err_code":10043,"description":"sequence 62 not found"}}"#,
                plain(Answer::Missing),
            ),
            (
                Kind::Put,
                r#"{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"},"stream":"x","seq":0}"#,
                plain(Answer::Conflict),
            ),
            (
                Kind::Put,
                r#"{"error":{"code":503,"err_code":10163,"description":"expected last sequence per subject temporarily unavailable"}}"#,
                plain(Answer::Failed),
            ),
            (Kind::Get, "{}", plain(Answer::Failed)),
            (Kind::Put, "garbage", plain(Answer::Failed)),
            (Kind::Get, r#"{"message":{"seq":1,"data":"?"}}"#, plain(Answer::Failed)),
        ];
        for (kind, payload, expected) in table {
            assert_eq!(outcome(kind, payload.as_bytes()), expected, "{payload}");
        }
    }

    #[test]
    fn requests_name_the_rooms_own_stream_and_subjects() {
        let put = Request::Put { key: "lease.a".into(), value: "0".into(), expected: 3 }.message("lobby", 3);
        assert_eq!((put.subject.as_str(), put.expected.as_deref()), ("$KV.glowplug_lobby.lease.a", Some("3")));
        let get = Request::Get { key: "name.ab".into() }.message("lobby", 3);
        assert_eq!(get.subject, "$JS.API.STREAM.MSG.GET.KV_glowplug_lobby");
        assert_eq!(get.payload, r#"{"last_by_subj":"$KV.glowplug_lobby.name.ab"}"#);
        let delete = Request::Delete { revision: 5 }.message("lobby", 3);
        assert_eq!(delete.subject, "$JS.API.STREAM.MSG.DELETE.KV_glowplug_lobby");
        assert_eq!(delete.payload, r#"{"no_erase":true,"seq":5}"#);
        let create = Request::Create.message("lobby", 3);
        assert_eq!(create.subject, "$JS.API.STREAM.CREATE.KV_glowplug_lobby");
        assert!(create.payload.contains(r#""num_replicas":3"#), "{}", create.payload);
    }
}
