//! How a call fails for C: a number, and words that its thread can ask for. Panics end here.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::status::Status;

thread_local! {
    /// What the last call of this thread that failed said.
    static LAST: RefCell<CString> = RefCell::default();
}

/// Why a call failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: Status,
    pub message: String,
}

impl Failure {
    pub fn new(status: Status, message: impl Display) -> Self {
        Self { status, message: message.to_string() }
    }

    /// An argument that is not as the header says.
    pub fn argument(what: &str, expected: impl Display) -> Self {
        Self::new(Status::InvalidArgument, format_args!("{what}: expected {expected}"))
    }

    fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::new(
            Status::Internal,
            format_args!("a fault of the library's: {}", text.unwrap_or("it panicked")),
        )
    }

    /// Keeps the words for the thread, and gives the number.
    fn keep(self) -> i32 {
        let Self { status, message } = self;
        let message = CString::new(message.replace('\0', "\u{fffd}")).unwrap_or_default();
        // A thread that ends has nobody left to ask.
        let _ = LAST.try_with(|last| last.replace(message));
        status as i32
    }
}

/// Runs what a function of the header's does, of which nothing unwinds into C.
pub fn guard(act: impl FnOnce() -> Result<(), Failure>) -> i32 {
    // What a panic leaves half done is behind locks that look after it themselves, as other threads' panics do.
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(())) => Status::Ok as i32,
        Ok(Err(failure)) => failure.keep(),
        Err(panic) => Failure::panicked(&*panic).keep(),
    }
}

/// `interleaf_last_error`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// `interleaf_status_name`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_status_name(status: i32) -> *const c_char {
    let known = Status::ALL.iter().find(|(known, _)| *known as i32 == status);
    known.map_or(c"unknown", |(_, name)| name).as_ptr()
}

/// `interleaf_abi`.
#[unsafe(no_mangle)]
pub const extern "C" fn interleaf_abi() -> u32 {
    super::ABI
}

/// `interleaf_version`.
#[unsafe(no_mangle)]
pub const extern "C" fn interleaf_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn last() -> String {
        // SAFETY: it ends with a NUL, and stays until the next failure of this thread.
        unsafe { CStr::from_ptr(interleaf_last_error()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn a_panic_is_a_status_and_its_words_are_kept() {
        let status = guard(|| panic!("out of {}", "order"));
        assert_eq!((status, last()), (26, "a fault of the library's: out of order".into()));
        assert_eq!(guard(|| Ok(())), 0);
        assert_eq!(last(), "a fault of the library's: out of order", "until the next that fails");
        std::thread::spawn(|| assert_eq!(last(), "", "each thread has its own")).join().unwrap();
        assert_eq!(guard(|| Err(Failure::argument("a\0b", "no NUL"))), 1);
        assert_eq!(last(), "a\u{fffd}b: expected no NUL");
    }
}
