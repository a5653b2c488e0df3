//! Entry points for the targets of `fuzz/`: the models of each part, which panic if the part is wrong. Any bytes are a
//! valid input, and the property tests call the same functions. Not part of the public API.

pub use crate::address::model::check as address;
pub use crate::buffer::model::decoders;
pub use crate::buffer::model::input as input_framers;
pub use crate::buffer::model::output;
pub use crate::link::model::check as link;
pub use crate::timer::model::check as timing_wheel;
pub use crate::topics::model::check as topics;
