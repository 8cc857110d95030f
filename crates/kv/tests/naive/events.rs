//! What may happen, at random.

use proptest::prelude::*;

use crate::world::Event;

pub fn event() -> impl Strategy<Value = Event> {
    let n = 0_usize..64;
    let open = (n.clone(), n.clone(), 0_u8..4, 0_usize..90, 0_u8..3, 0_usize..70, any::<bool>(), 0_u8..8);
    let compute = (n.clone(), 1_usize..60, 0_u8..2, 0_u8..12);
    prop_oneof![
        8 => open.prop_map(|(app, adapter, text, len, suffix, from, one, two)| Event::Open {
            app, adapter, text, len, suffix, from, is_kept: one || two > 1, is_lossy: two == 3,
        }),
        14 => compute.prop_map(|(sequence, tokens, text, lossy)| Event::Compute {
            sequence, tokens, text, is_lossy: lossy == 0,
        }),
        1 => (n.clone(), 0_usize..90).prop_map(|(sequence, tokens)| Event::Truncate { sequence, tokens }),
        6 => n.clone().prop_map(|sequence| Event::Close { sequence }),
        5 => n.clone().prop_map(|op| Event::Done { op }),
        1 => n.clone().prop_map(|op| Event::Failed { op }),
        1 => n.clone().prop_map(|op| Event::Cancelled { op }),
        4 => Just(Event::AllDone),
        3 => (0_u32..40).prop_map(|tenths| Event::Tick { tenths }),
        1 => (n.clone(), 0_usize..5).prop_map(|(app, state)| Event::AppState { app, state }),
        1 => (0_usize..3).prop_map(|level| Event::Trim { level }),
        1 => (0_usize..3, 0_u32..=16).prop_map(|(tier, share)| Event::Budget { tier, share }),
        2 => (0_u8..4, 0_u32..4).prop_map(|(digest, rank)| Event::AddAdapter { digest, rank }),
        1 => n.clone().prop_map(|adapter| Event::RemoveAdapter { adapter }),
        1 => (0_u8..3).prop_map(|salt| Event::OpenApp { salt }),
        1 => n.clone().prop_map(|app| Event::CloseApp { app }),
        1 => Just(Event::LoseMemory),
        4 => (n.clone(), 0_u8..4).prop_map(|(sequence, choice)| Event::Keys { sequence, are_exact: choice > 0 }),
        // What comes of it takes several after each other.
        8 => (n.clone(), n, 0_u8..4, 16_usize..86).prop_map(|(app, adapter, text, len)| Event::Follow {
            app, adapter, text, len,
        }),
    ]
}
