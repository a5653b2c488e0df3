//! What the targets of `fuzz/` call: the models of each part, which panic where the part is not right. They take bytes,
//! mean something with every one of them, and are the same that the property tests call. No part of the public face.

pub use crate::chat::model::check as chat_framing;
pub use crate::codec::chunked::model::check as chunked;
pub use crate::codec::websocket::model::check as websocket;
pub use crate::http::model::check as http_request;
