//! What comes over from C, as types that look at it before it is used: pointers that may be NULL or askew, text that may be no
//! UTF-8, structs of other versions.
//!
//! Only C makes values of these types, and the header says what they point to and for how long; that is what `SAFETY` means by the
//! header. What no look can tell, such as a handle that was closed, is the caller's to keep.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::ptr;

use super::failure::Failure;
use super::status::Status;

/// The longest struct that any version may have, in bytes: a size beyond it is none.
const MOST_BYTES: usize = 4096;

/// Text that ends with a NUL.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// A copy of it; `None` for NULL.
    pub fn optional(self, what: &str) -> Result<Option<String>, Failure> {
        if self.0.is_null() {
            return Ok(None);
        }
        // SAFETY: it is not NULL, so by the header it ends with a NUL and stays during the call.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(|text| Some(text.to_owned())).map_err(|_| Failure::argument(what, "UTF-8"))
    }

    /// A copy of it.
    pub fn required(self, what: &str) -> Result<String, Failure> {
        self.optional(what)?.ok_or_else(|| Failure::argument(what, "not NULL"))
    }
}

/// Elements in a row, of which a number is given beside them.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Many<T>(*const T);

impl<T: Copy> Many<T> {
    /// Copies of them.
    ///
    /// # Safety
    /// There are as many, unless the pointer is NULL.
    pub unsafe fn copied(self, count: usize, what: &str) -> Result<Vec<T>, Failure> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let bytes = count.checked_mul(size_of::<T>()).filter(|bytes| isize::try_from(*bytes).is_ok());
        if self.0.is_null() || !self.0.is_aligned() || bytes.is_none() {
            return Err(Failure::argument(what, format_args!("{count} elements")));
        }
        // SAFETY: they lie aligned in a row, which is no longer than an object may be; the caller says that there are so many.
        Ok(unsafe { std::slice::from_raw_parts(self.0, count) }.to_vec())
    }

    /// Whether there are any at all.
    pub const fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// Room for elements in a row.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Row<T>(*mut T);

impl<T: Copy> Row<T> {
    /// Fills it and says how many there are; with fewer places than elements it says so and fills none.
    ///
    /// # Safety
    /// There are as many places, unless the pointer is NULL.
    pub unsafe fn fill(
        self,
        capacity: usize,
        count: Out<usize>,
        elements: &[T],
        what: &str,
    ) -> Result<(), Failure> {
        count.set(elements.len(), "count")?;
        if elements.len() > capacity {
            let message = format_args!("{what}: {} elements, and room for {capacity}", elements.len());
            return Err(Failure::new(Status::BufferTooSmall, message));
        }
        if elements.is_empty() {
            return Ok(());
        }
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Failure::argument(what, format_args!("room for {capacity} elements")));
        }
        // SAFETY: there is room for as many, aligned; nobody else's memory is among what is copied.
        unsafe { ptr::copy_nonoverlapping(elements.as_ptr(), self.0, elements.len()) };
        Ok(())
    }
}

/// A place for a result.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Puts the result there.
    pub fn set(&self, value: T, what: &str) -> Result<(), Failure> {
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Failure::argument(what, "a place for it"));
        }
        // SAFETY: by the header there is room for one, and nothing in it that would have to be freed.
        unsafe { self.0.write(value) };
        Ok(())
    }
}

impl<T> Out<Option<Box<T>>> {
    /// Gives a handle out, or NULL where there is none to be had.
    pub fn give(self, what: &str, make: impl FnOnce() -> Result<T, Failure>) -> Result<(), Failure> {
        // First, so that nothing is made that has no place.
        self.set(None, what)?;
        self.set(Some(Box::new(make()?)), what)
    }
}

/// A handle.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Handle<T>(*const T);

impl<T: Sync> Handle<T> {
    /// What it stands for, during a call.
    pub fn get<'a>(self, what: &str) -> Result<&'a T, Failure> {
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Failure::argument(what, "a handle"));
        }
        // SAFETY: by the header it was given out and is not closed before the call ends. Whoever else uses it shares it.
        Ok(unsafe { &*self.0 })
    }
}

/// A struct of the header's.
///
/// # Safety
/// It is `repr(C)`, begins with its size as a `u32`, and is a value whatever numbers and pointers it is made of.
pub unsafe trait Record: Copy {}

/// A struct that goes in, of whatever version.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Record> In<T> {
    /// A copy, of which members that its version has not are 0; all are for NULL.
    pub fn read(self, what: &str) -> Result<T, Failure> {
        let mut record = MaybeUninit::<T>::zeroed();
        if !self.0.is_null() {
            let from = self.0.cast::<u8>();
            let size = record_size(self.0, what)?;
            let known = size.min(size_of::<T>());
            // SAFETY: by the header it has as many bytes as it says, which `record_size` has found to be possible.
            let beyond = unsafe { std::slice::from_raw_parts(from.add(known), size - known) };
            if beyond.iter().any(|byte| *byte != 0) {
                let expected =
                    format_args!("no member set beyond byte {known}, which this version does not know");
                return Err(Failure::argument(what, expected));
            }
            // SAFETY: both have so many bytes.
            unsafe { ptr::copy_nonoverlapping(from, record.as_mut_ptr().cast(), known) };
        }
        // SAFETY: `Record` says that zeros, and numbers and pointers of C's over them, are a value.
        Ok(unsafe { record.assume_init() })
    }
}

/// A struct that comes out, of whatever version.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Fill<T>(*mut T);

impl<T: Record> Fill<T> {
    /// Whether anybody wants it.
    pub const fn is_wanted(self) -> bool {
        !self.0.is_null()
    }

    /// Looks at its place, so that nothing is done whose result has none.
    pub fn check(self, what: &str) -> Result<(), Failure> {
        record_size(self.0, what).map(|_| ())
    }

    /// Fills the members that its version has; those that only it knows are 0. Its size stays.
    pub fn set(self, value: &T, what: &str) -> Result<(), Failure> {
        let size = record_size(self.0, what)?;
        let (known, header) = (size.min(size_of::<T>()), size_of::<u32>());
        let (from, to) = (ptr::from_ref(value).cast::<u8>(), self.0.cast::<u8>());
        // SAFETY: by the header it has as many bytes as it says, none of them of `value`, which has `known` of them.
        unsafe {
            ptr::copy_nonoverlapping(from.add(header), to.add(header), known - header);
            to.add(known).write_bytes(0, size - known);
        }
        Ok(())
    }
}

/// How long a struct is by its own account.
fn record_size<T: Record>(record: *const T, what: &str) -> Result<usize, Failure> {
    if record.is_null() || !record.is_aligned() {
        return Err(Failure::argument(what, "a struct that begins with its size"));
    }
    // SAFETY: it is not NULL, so by the header it begins with its size.
    let size = unsafe { record.cast::<u32>().read() } as usize;
    if size < align_of::<T>() || size > MOST_BYTES || !size.is_multiple_of(align_of::<T>()) {
        let expected = format_args!("its size in its first member, such as {}, not {size}", size_of::<T>());
        return Err(Failure::argument(what, expected));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(C)]
    struct Now {
        size: u32,
        a: u32,
        b: u64,
    }

    // SAFETY: `repr(C)`, its size first, numbers alone.
    unsafe impl Record for Now {}

    /// The same in a version with more members.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(C)]
    struct Later {
        now: Now,
        c: u64,
    }

    // SAFETY: likewise.
    unsafe impl Record for Later {}

    fn now(size: usize) -> Now {
        Now { size: size as u32, a: 1, b: 2 }
    }

    #[test]
    fn structs_of_other_versions_are_read_as_far_as_they_are_known() {
        let read = |record: &Now| In(ptr::from_ref(record)).read("record");
        assert_eq!(read(&now(16)), Ok(now(16)));
        assert_eq!(read(&now(8)), Ok(Now { b: 0, ..now(8) }), "an older one's");
        assert_eq!(In::<Now>(ptr::null()).read("record"), Ok(Now { size: 0, a: 0, b: 0 }));
        let mut later = Later { now: now(24), c: 0 };
        assert_eq!(In(ptr::from_ref(&later).cast::<Now>()).read("record"), Ok(now(24)));
        later.c = 1;
        let refused = In(ptr::from_ref(&later).cast::<Now>()).read("record").unwrap_err();
        assert!(refused.message.contains("beyond byte 16"), "{}", refused.message);
        for size in [0, 4, 9, MOST_BYTES + 8] {
            let refused = read(&now(size)).unwrap_err();
            assert_eq!(refused.status, Status::InvalidArgument);
            assert!(refused.message.contains(&format!("such as 16, not {size}")), "{}", refused.message);
        }
    }

    #[test]
    fn structs_of_other_versions_are_filled_as_far_as_they_reach() {
        let value = Now { size: 0, a: 5, b: 6 };
        let mut place = now(8);
        Fill(&raw mut place).set(&value, "record").unwrap();
        assert_eq!(place, Now { size: 8, a: 5, b: 2 });
        let mut later = Later { now: now(24), c: 7 };
        Fill((&raw mut later).cast::<Now>()).set(&value, "record").unwrap();
        assert_eq!(later, Later { now: Now { size: 24, a: 5, b: 6 }, c: 0 });
        assert!(Fill::<Now>(ptr::null_mut()).check("record").is_err());
    }

    #[test]
    fn rows_are_filled_whole_or_not_at_all() {
        let (mut places, mut count) = ([9_u64; 3], 0);
        let mut fill = |capacity, elements: &[u64]| {
            // SAFETY: there are three places.
            unsafe { Row(places.as_mut_ptr()).fill(capacity, Out(&raw mut count), elements, "ids") }
        };
        fill(3, &[1, 2]).unwrap();
        assert_eq!(fill(1, &[3, 4]).unwrap_err().status, Status::BufferTooSmall);
        assert_eq!((places, count), ([1, 2, 9], 2));
    }
}
