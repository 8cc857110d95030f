//! Models without files: the shapes of public ones, with weights that are drawn when they are asked for.
//!
//! Their answers mean nothing. What a step of them reads and multiplies is what it is with the trained
//! weights, so they are for measuring. Nothing is kept: a matrix is drawn in the format that is asked for,
//! row by row, and the same seed draws the same weights.

mod adapter;
mod draw;
mod shape;

pub(crate) use draw::Drawn;
pub use shape::Shape;
