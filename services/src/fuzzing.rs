//! Entry points for the targets of `fuzz/`: the models of each part, which panic if the part is wrong. Any bytes are a
//! valid input, and the property tests call the same functions. Not part of the public API.

pub use crate::chat::model::check as chat_framing;
pub use crate::codec::chunked::model::check as chunked;
pub use crate::codec::nats::model::check as nats;
pub use crate::codec::request::syntax::parts as head_parts;
pub use crate::codec::websocket::model::check as websocket;
pub use crate::http::model::check as http_request;

/// The node of a room on several servers, and what the engine may deliver.
pub fn nodes(text: &[u8]) {
    crate::chat::check_nodes(text);
}
