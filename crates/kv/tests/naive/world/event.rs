//! What may happen.

/// An event. Numbers choose among what there is at that time.
#[derive(Debug, Clone)]
pub enum Event {
    Open {
        app: usize,
        adapter: usize,
        text: u8,
        len: usize,
        suffix: u8,
        from: usize,
        is_kept: bool,
        is_lossy: bool,
    },
    Compute {
        sequence: usize,
        tokens: usize,
        text: u8,
        is_lossy: bool,
    },
    Truncate {
        sequence: usize,
        tokens: usize,
    },
    Close {
        sequence: usize,
    },
    Done {
        op: usize,
    },
    Failed {
        op: usize,
    },
    Cancelled {
        op: usize,
    },
    AllDone,
    Tick {
        tenths: u32,
    },
    AppState {
        app: usize,
        state: usize,
    },
    Trim {
        level: usize,
    },
    Budget {
        tier: usize,
        share: u32,
    },
    AddAdapter {
        digest: u8,
        rank: u32,
    },
    RemoveAdapter {
        adapter: usize,
    },
    OpenApp {
        salt: u8,
    },
    CloseApp {
        app: usize,
    },
    LoseMemory,
    /// A sequence reads exact keys in place of encoded ones from now on, or no longer.
    Keys {
        sequence: usize,
        are_exact: bool,
    },
    /// The base answers a text, an adapter does, and it is asked again, each when all moves have ended: what is decoded over
    /// something is made and read, which other events seldom come to.
    Follow {
        app: usize,
        adapter: usize,
        text: u8,
        len: usize,
    },
}
