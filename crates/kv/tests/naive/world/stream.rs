//! Bytes as a stream of events: whatever they are, they are one.
//!
//! Four bytes say how the world is set up (chunks of memory, chunks of flash, the policy, flags with the machine's costs and
//! the chunks of a host's memory), then come eight for each event: which, and its numbers. What the last event lacks is zeros.

use super::{Event, Setup, World};

/// Events of one stream; more are not read.
pub const MOST_EVENTS: usize = 300;

/// Plays a stream to its end and closes everything. Returns how many sequences found tokens that were there.
///
/// # Errors
/// Says what was wrong, and at which event.
pub fn play(bytes: &[u8]) -> Result<usize, String> {
    let (head, events) = bytes.split_at(bytes.len().min(4));
    let mut world = World::new(setup(head));
    for (number, record) in events.chunks(8).take(MOST_EVENTS).enumerate() {
        let event = event(record);
        world.apply(&event).map_err(|e| format!("event {number}, {event:?}: {e}"))?;
    }
    world.release_everything().map_err(|e| format!("at the end: {e}"))?;
    Ok(world.found)
}

fn setup(head: &[u8]) -> Setup {
    let byte = |i: usize| head.get(i).copied().unwrap_or_default();
    let flags = byte(3);
    Setup {
        // So many that nothing ever has to go, or few.
        chunks: if flags & 1 > 0 { 200 } else { 6 + u32::from(byte(0)) % 34 },
        // Eight at a time.
        host: (flags >> 5 > 0).then(|| u32::from(flags >> 5) * 8),
        flash: (byte(1) > 0).then(|| u32::from(byte(1)) % 60 + 1),
        policy: usize::from(byte(2)) % 5,
        costs: usize::from(flags >> 3) % 4,
        can_recompute: flags & 2 > 0,
        has_forms: flags & 4 > 0,
    }
}

fn event(record: &[u8]) -> Event {
    let byte = |i: usize| record.get(i).copied().unwrap_or_default();
    let number = |i: usize| usize::from(byte(i));
    let flags = byte(7);
    // What was kept of streams has the numbers up to 16.
    match byte(0) % 19 {
        0 => Event::Open {
            app: number(1),
            adapter: number(2),
            text: byte(3) % 4,
            len: number(4) % 90,
            suffix: byte(5) % 3,
            from: number(6) % 70,
            is_kept: flags & 1 == 0,
            is_lossy: flags & 6 == 6,
        },
        1 => Event::Compute {
            sequence: number(1),
            tokens: number(2) % 59 + 1,
            text: byte(3) % 2,
            is_lossy: flags & 6 == 6,
        },
        2 => Event::Truncate { sequence: number(1), tokens: number(2) % 90 },
        3 => Event::Close { sequence: number(1) },
        4 => Event::Done { op: number(1) },
        5 => Event::Failed { op: number(1) },
        6 => Event::Cancelled { op: number(1) },
        7 => Event::AllDone,
        8 => Event::Tick { tenths: u32::from(byte(1)) % 40 },
        9 => Event::AppState { app: number(1), state: number(2) % 5 },
        10 => Event::Trim { level: number(1) % 3 },
        11 => Event::Budget { tier: number(1), share: u32::from(byte(2)) % 17 },
        12 => Event::AddAdapter { digest: byte(1) % 8, rank: u32::from(byte(2)) % 4 },
        13 => Event::RemoveAdapter { adapter: number(1) },
        14 => Event::OpenApp { salt: byte(1) % 3 },
        15 => Event::CloseApp { app: number(1) },
        16 => Event::LoseMemory,
        18 => Event::Keys { sequence: number(1), are_exact: byte(2) % 4 > 0 },
        _ => {
            Event::Follow { app: number(1), adapter: number(2), text: byte(3) % 4, len: number(4) % 70 + 16 }
        }
    }
}
