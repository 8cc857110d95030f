//! The header's parts about apps and contexts.

use super::choices::{APP_STATES, app_state};
use super::failure::guard;
use super::raw::{Handle, Many, Out, Row, Text};
use crate::{App, Context, ContextId, Service};

/// Bytes of a salt.
const SALT: usize = 16;

/// `interleaf_app_open`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_app_open(
    service: Handle<Service>,
    name: Text,
    salt: Many<u8>,
    app: Out<Option<Box<App>>>,
) -> i32 {
    guard(|| {
        app.give("app", || {
            let bytes = if salt.is_null() {
                Vec::new()
            } else {
                // SAFETY: by the header a salt that is not NULL has 16 bytes.
                unsafe { salt.copied(SALT, "salt") }?
            };
            let salt = <[u8; SALT]>::try_from(bytes).ok();
            Ok(service.get("service")?.app(&name.required("name")?, salt)?)
        })
    })
}

/// `interleaf_app_close`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_app_close(app: Option<Box<App>>) {
    guard(|| {
        drop(app);
        Ok(())
    });
}

/// `interleaf_app_set_state`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_app_set_state(app: Handle<App>, state: i32) -> i32 {
    guard(|| Ok(app.get("app")?.set_state(APP_STATES.get(state)?)?))
}

/// `interleaf_app_state`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_app_state(app: Handle<App>, state: Out<i32>) -> i32 {
    guard(|| state.set(app_state(app.get("app")?.state()), "state"))
}

/// `interleaf_app_contexts`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_app_contexts(
    app: Handle<App>,
    ids: Row<u64>,
    capacity: usize,
    count: Out<usize>,
) -> i32 {
    guard(|| {
        let numbers: Vec<u64> = app.get("app")?.contexts().iter().map(|context| context.id().0).collect();
        // SAFETY: by the header there are as many places.
        unsafe { ids.fill(capacity, count, &numbers, "ids") }
    })
}

/// `interleaf_context_new`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_context_new(app: Handle<App>, context: Out<Option<Box<Context>>>) -> i32 {
    guard(|| context.give("context", || Ok(app.get("app")?.new_context()?)))
}

/// `interleaf_context_open`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_context_open(
    app: Handle<App>,
    id: u64,
    context: Out<Option<Box<Context>>>,
) -> i32 {
    guard(|| context.give("context", || Ok(app.get("app")?.context(ContextId(id))?)))
}

/// `interleaf_context_id`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_context_id(context: Handle<Context>, id: Out<u64>) -> i32 {
    guard(|| id.set(context.get("context")?.id().0, "id"))
}

/// `interleaf_context_tokens`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_context_tokens(
    context: Handle<Context>,
    tokens: Row<u32>,
    capacity: usize,
    count: Out<usize>,
) -> i32 {
    guard(|| {
        let own = context.get("context")?.tokens()?;
        // SAFETY: by the header there are as many places.
        unsafe { tokens.fill(capacity, count, &own, "tokens") }
    })
}

/// `interleaf_context_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_context_delete(context: Handle<Context>) -> i32 {
    guard(|| Ok(context.get("context")?.delete()?))
}

/// `interleaf_context_close`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_context_close(context: Option<Box<Context>>) {
    guard(|| {
        drop(context);
        Ok(())
    });
}
