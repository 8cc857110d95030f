//! The library for C and whatever calls C: the functions of `include/interleaf.h` over the [service](crate::Service), with the
//! feature `c-api`. What they mean the header says, and only there; here is how pointers become values and errors numbers.
//!
//! Everything that a caller hands over is a type of [`raw`], which looks at it before it is used: a function has no `unsafe` of its
//! own but where a pointer and a count come apart. Nothing unwinds into C ([`failure::guard`]).

#![allow(unsafe_code, reason = "names that C links with, and pointers that come from there")]

mod app;
mod call;
mod choices;
mod failure;
mod generation;
#[cfg(test)]
mod header;
mod raw;
mod records;
mod service;
mod status;

/// `INTERLEAF_ABI`: one more with every change by which a program would have to be compiled again.
const ABI: u32 = 1;
