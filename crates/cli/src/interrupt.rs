//! Ctrl-C: the first ends the answer within one token, the second ends the program.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::output;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Starts listening. Where no handler can be installed, Ctrl-C keeps its usual meaning and a line says so.
pub fn listen() {
    let installed = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            // The conventional code of a program ended by SIGINT.
            std::process::exit(130);
        }
    });
    if let Err(reason) = installed {
        output::note(format_args!("interleaf: Ctrl-C will end the program without a summary: {reason}"));
    }
}

/// Forgets a Ctrl-C that has done its work, so that the next one is a first again.
pub fn clear() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}

/// Breaks once Ctrl-C was pressed.
pub fn check() -> ControlFlow<()> {
    if INTERRUPTED.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
