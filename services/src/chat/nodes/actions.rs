//! The outputs of a node: messages, requests to the bucket, and news for its members; and the answers of the bucket.

/// An action for the caller, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Action {
    /// Publish `payload` to all nodes, or to one.
    Publish {
        to: Option<Box<str>>,
        payload: Vec<u8>,
    },
    /// Send the request to the bucket, and pass the outcome to [`Node::answered`](super::Node::answered) with `id`.
    Request {
        id: u64,
        request: Request,
    },
    Event(Event),
}

/// A request to the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Request {
    /// Create the bucket, unless it exists.
    Create,
    /// Store `value`, if the key's revision is `expected`; 0 stands for a key without a value.
    Put {
        key: String,
        value: String,
        expected: u64,
    },
    Get {
        key: String,
    },
    /// Delete the value that was stored as `revision`, if it is still the value of its key.
    Delete {
        revision: u64,
    },
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Answer<'a> {
    /// The bucket exists, or the value is deleted.
    Done,
    /// The value is stored as this revision.
    Stored(u64),
    /// The key has another revision than the expected one.
    Conflict,
    Found {
        revision: u64,
        value: &'a [u8],
    },
    /// There is no such value.
    Missing,
    /// The bucket does not exist.
    NoBucket,
    /// No answer, or another error. The request may have been carried out.
    Failed,
}

/// News for the members of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Event {
    /// Member `number`, who has asked for its name, has the name. `is_alone`: only this node was asked.
    Granted { number: u64, is_alone: bool },
    /// The name of member `number`, who has asked, is taken.
    Refused { number: u64 },
    /// Another node's member has the name of the seated member `number`, who has to go.
    Close { number: u64 },
    /// A message of another node's member, ready to be shown.
    Said(Vec<u8>),
    /// The number of messages of another node that are lost.
    Missed(u64),
    /// A member of another node was there before this node. Nobody is told, and from now on the member counts.
    IsThere { node: Box<str>, number: u64, who: Box<str> },
    /// A member of another node has come.
    Came { node: Box<str>, number: u64, who: Box<str> },
    /// A member of another node has gone.
    Went { node: Box<str>, number: u64, who: Box<str> },
    /// The engine is away.
    Alone,
    /// The engine is back.
    Together,
}
