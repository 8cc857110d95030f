//! Errors as the numbers that the header gives them. The numbers never change.

use interleaf_contract::BackendError;
use interleaf_kv::KvError;

use super::failure::Failure;
use crate::{EngineError, ServiceError};

macro_rules! statuses {
    ($($variant:ident = $number:literal, $name:literal;)+) => {
        /// How a call ended: `INTERLEAF_OK` and what follows it in the header.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(i32)]
        pub enum Status {
            $($variant = $number,)+
        }

        impl Status {
            /// All of them, with their names and the NUL that C ends them by.
            pub const ALL: &[(Self, &'static std::ffi::CStr)] = &[$((Self::$variant, $name),)+];
        }
    };
}

statuses! {
    Ok = 0, c"ok";
    InvalidArgument = 1, c"invalid_argument";
    InvalidOption = 2, c"invalid_option";
    ModelRefused = 3, c"model_refused";
    Unsupported = 4, c"unsupported";
    OutOfMemory = 5, c"out_of_memory";
    DeviceFailed = 6, c"device_failed";
    GpuSuspended = 7, c"gpu_suspended";
    UnknownAdapter = 8, c"unknown_adapter";
    DuplicateAdapter = 9, c"duplicate_adapter";
    Overloaded = 10, c"overloaded";
    ContextBusy = 11, c"context_busy";
    UnknownContext = 12, c"unknown_context";
    ContextFull = 13, c"context_full";
    AppKilled = 14, c"app_killed";
    TooManyApps = 15, c"too_many_apps";
    NoChatTemplate = 16, c"no_chat_template";
    NoTokenizer = 17, c"no_tokenizer";
    EmptyPrompt = 18, c"empty_prompt";
    UnknownToken = 19, c"unknown_token";
    NotANumber = 20, c"not_a_number";
    FileFailed = 21, c"file_failed";
    NoThread = 22, c"no_thread";
    Stopped = 23, c"stopped";
    NotEnded = 24, c"not_ended";
    BufferTooSmall = 25, c"buffer_too_small";
    Internal = 26, c"internal";
    AdapterNotLoaded = 27, c"adapter_not_loaded";
    NoRouter = 28, c"no_router";
    DoesNotFit = 29, c"does_not_fit";
    LastLoadFailed = 30, c"last_load_failed";
}

impl From<&ServiceError> for Status {
    fn from(error: &ServiceError) -> Self {
        match error {
            ServiceError::Engine(error) => (&**error).into(),
            ServiceError::Overloaded { .. } => Self::Overloaded,
            ServiceError::ContextBusy(_) => Self::ContextBusy,
            ServiceError::UnknownContext(_) => Self::UnknownContext,
            ServiceError::ContextFull { .. } => Self::ContextFull,
            ServiceError::AppKilled(_) => Self::AppKilled,
            ServiceError::TooManyApps { .. } => Self::TooManyApps,
            ServiceError::InvalidOption { .. } => Self::InvalidOption,
            ServiceError::NoChatTemplate => Self::NoChatTemplate,
            ServiceError::Journal { .. } => Self::FileFailed,
            ServiceError::NoThread(_) => Self::NoThread,
            ServiceError::Stopped => Self::Stopped,
        }
    }
}

impl From<&EngineError> for Status {
    fn from(error: &EngineError) -> Self {
        match error {
            EngineError::Model(_) | EngineError::AdapterChanged(_) => Self::ModelRefused,
            EngineError::Backend(error) | EngineError::DeviceFailed { cause: error, .. } => error.into(),
            EngineError::Kv(error) => error.into(),
            EngineError::BackendMissing { .. } => Self::Unsupported,
            EngineError::GpuSuspended => Self::GpuSuspended,
            EngineError::UnknownAdapter { .. } => Self::UnknownAdapter,
            EngineError::DuplicateAdapter(_) => Self::DuplicateAdapter,
            EngineError::EmptyPrompt { .. } => Self::EmptyPrompt,
            EngineError::NotANumber => Self::NotANumber,
            EngineError::UnknownToken { .. } => Self::UnknownToken,
            EngineError::ContextFull { .. } => Self::ContextFull,
            EngineError::InvalidOption { .. } => Self::InvalidOption,
            EngineError::NoTokenizer { .. } => Self::NoTokenizer,
            EngineError::AdapterNotLoaded { .. } => Self::AdapterNotLoaded,
            EngineError::NoRouter => Self::NoRouter,
            EngineError::DoesNotFit { .. } => Self::DoesNotFit,
            EngineError::LastLoadFailed { .. } => Self::LastLoadFailed,
            // Of what nobody can ask through the service.
            EngineError::DuplicateSequence { .. }
            | EngineError::KvElements { .. }
            | EngineError::SharedPages
            | EngineError::NoSuchPosition { .. } => Self::Internal,
        }
    }
}

impl From<&BackendError> for Status {
    fn from(error: &BackendError) -> Self {
        match error {
            BackendError::Unsupported { .. } | BackendError::PageCodec { .. } => Self::Unsupported,
            BackendError::OutOfMemory { .. } => Self::OutOfMemory,
            BackendError::DeviceLost { .. } | BackendError::Device { .. } => Self::DeviceFailed,
            // What the library gave the backend contradicts itself; and whatever comes with later versions.
            _ => Self::Internal,
        }
    }
}

impl From<&KvError> for Status {
    fn from(error: &KvError) -> Self {
        match error {
            KvError::Full { .. } | KvError::AdapterFull { .. } => Self::OutOfMemory,
            KvError::TooManyApps { .. } => Self::TooManyApps,
            KvError::DuplicateAdapter => Self::DuplicateAdapter,
            KvError::TooManySequences { .. } => Self::Overloaded,
            KvError::TooManyAdapters { .. } => Self::Unsupported,
            KvError::Config { .. } => Self::InvalidOption,
            _ => Self::Internal,
        }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::new(Status::from(&error), error)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::new(Status::from(&error), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Whose;

    #[test]
    fn errors_have_the_numbers_of_what_they_are() {
        let device = || BackendError::DeviceLost { backend: "gpu", reason: "gone".into() };
        for (error, expected) in [
            (ServiceError::Overloaded { whose: Whose::AllApps, waiting: 1, most: 1 }, Status::Overloaded),
            (ServiceError::ContextFull { needed: 2, limit: 1 }, Status::ContextFull),
            (EngineError::ContextFull { needed: 2, limit: 1 }.into(), Status::ContextFull),
            (EngineError::from(device()).into(), Status::DeviceFailed),
            (
                EngineError::DeviceFailed { cause: device(), completions: Vec::new() }.into(),
                Status::DeviceFailed,
            ),
            (EngineError::from(KvError::UnknownApp).into(), Status::Internal),
        ] {
            assert_eq!(Status::from(&error), expected, "{error}");
        }
    }
}
