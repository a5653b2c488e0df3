//! What the targets of `fuzz/` call: the models of each part, which panic where the part is not right. They take bytes,
//! mean something with every one of them, and are the same that the property tests call. No part of the public face.

pub use crate::address::model::check as address;
pub use crate::buffer::model::decoders;
pub use crate::buffer::model::input as input_framers;
pub use crate::buffer::model::output;
pub use crate::link::model::check as link;
pub use crate::timer::model::check as timing_wheel;
pub use crate::topics::model::check as topics;
