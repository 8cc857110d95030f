//! The service survives what a phone does to it: it is killed at whatever moment, its files are damaged, its disk is full, files of
//! adapters change under it, memory is taken away while it answers, and callers leave when they like. What it says is what it would
//! have said, or an error says why not; what it said was kept is there.

mod budgets;
mod cancels;
mod damage;
mod driver;
mod full_disk;
mod kills;
mod replaced;
mod rig;
mod script;
mod soak;
