//! Which width each chunk of a context is stored at: what is attended to most keeps most bits. Chooses and does not
//! encode; knows neither pages nor tiers.
//!
//! LLMS (Yin et al., arXiv 2403.11805, §3.2) ranks chunks by information density and gives each 8, 4 or 2 bits, so that
//! all together take a given share of what they take at 8. Its objective, as far as it can be read there, is best at its
//! end points whatever the densities are. What is minimised here is `Σ Dᵢ·e_w` under `Σ bytes ≤ ratio · Σ bytes at 8`: D
//! the density, e the relative error that was measured of a width, and bytes what is stored, scales included. Over 16
//! tokens a scale and a zero of f16 for each channel are 2 bits an element more, so that "2 bits" take twice what they say.

use std::cmp::Ordering;

/// A width, and the place of its numbers in a triple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Width {
    /// 8 bits.
    Eight,
    /// 4 bits.
    Four,
    /// 2 bits.
    Two,
}

impl Width {
    /// Every width, the widest first.
    pub const ALL: [Self; 3] = [Self::Eight, Self::Four, Self::Two];

    /// Bits of an element, scales not included.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Eight => 8,
            Self::Four => 4,
            Self::Two => 2,
        }
    }
}

/// A chunk to be stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Graded {
    /// Its information density: the mean attention that its tokens get from those that can see them. 0 or more.
    pub density: f64,
    /// What it takes at each width, in bytes, scales included.
    pub bytes: [u64; 3],
}

/// How much may be lost for how much room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// The relative error of each width, measured; the wider one's is at most the narrower one's.
    pub errors: [f64; 3],
    /// Share of what all take at 8 bits that they may take.
    pub ratio: f64,
    /// How many of the newest chunks are not stored narrower at all, and not counted.
    pub newest: usize,
}

impl Tolerance {
    /// The paper's ratio, a half, and no chunk that is left out.
    #[must_use]
    pub const fn new(errors: [f64; 3]) -> Self {
        Self { errors, ratio: 0.5, newest: 0 }
    }

    /// κ = 2(e₂ − e₄)/(e₄ − e₈). Where widths take 8 : 4 : 2 and the ratio is a half, taking one chunk from 4 bits to 8 and
    /// two from 4 to 2 changes no byte, and loses less while the one's density is more than κ times the two's mean.
    #[must_use]
    pub fn exchange(&self) -> f64 {
        let [e8, e4, e2] = self.errors;
        2.0 * (e2 - e4) / (e4 - e8)
    }
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Widths {
    /// By chunk; `None` for those that are left as they are.
    pub widths: Vec<Option<Width>>,
    /// Bytes that they take, those left out not counted.
    pub bytes: u64,
    /// `Σ Dᵢ·e_w`.
    pub error: f64,
}

/// Why nothing was chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ToleranceError {
    /// Less room than all take at their narrowest.
    #[error("chunks take {least} bytes at their narrowest, and may take {budget}")]
    TooTight {
        /// What they take at least.
        least: u64,
        /// What they may take.
        budget: u64,
    },
    /// A number that cannot be.
    #[error("{field} must be {expected}, found {found}")]
    Number {
        /// What it is.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        found: f64,
    },
}

/// Chooses the widths of a context's chunks, the oldest first. Of equal densities the newer keeps more bits.
///
/// Where all take the same bytes at each width nothing loses less. Else what is lost is less than the least possible plus
/// what the one chunk would gain most that goes from its narrowest to its widest.
///
/// # Errors
/// If there is less room than they take at their narrowest, a number is not one, or an error falls with the width.
pub fn choose_widths(chunks: &[Graded], tolerance: &Tolerance) -> Result<Widths, ToleranceError> {
    check(chunks, tolerance)?;
    let graded = &chunks[..chunks.len().saturating_sub(tolerance.newest)];
    let total = |bytes: fn(&Graded) -> u64| graded.iter().map(bytes).sum::<u64>();
    // More than everything at 8 bits is no more than that, or than a width that takes even more.
    let budget = (total(|chunk| chunk.bytes[0]) as f64 * tolerance.ratio) as u64;
    let least = total(|chunk| chunk.bytes.into_iter().min().unwrap_or_default());
    if least > budget {
        return Err(ToleranceError::TooTight { least, budget });
    }
    let mut order: Vec<usize> = (0..graded.len()).rev().collect();
    order.sort_by(|&a, &b| graded[b].density.total_cmp(&graded[a].density));
    let is_alike = graded.windows(2).all(|pair| pair[0].bytes == pair[1].bytes);
    let chosen = match graded.first() {
        Some(first) if is_alike => by_thresholds(graded, &order, first.bytes, tolerance.errors, budget),
        _ => by_steps(graded, &order, tolerance.errors, budget),
    };
    let bytes = graded.iter().zip(&chosen).map(|(chunk, width)| chunk.bytes[*width as usize]).sum();
    let errors =
        graded.iter().zip(&chosen).map(|(chunk, width)| chunk.density * tolerance.errors[*width as usize]);
    let error = errors.sum();
    let left = chunks.len() - graded.len();
    let widths = chosen.into_iter().map(Some).chain(std::iter::repeat_n(None, left)).collect();
    Ok(Widths { widths, bytes, error })
}

fn check(chunks: &[Graded], tolerance: &Tolerance) -> Result<(), ToleranceError> {
    let number = |field, expected, found: f64, is_right: bool| match is_right {
        true => Ok(()),
        false => Err(ToleranceError::Number { field, expected, found }),
    };
    let is_lawful = |number: f64| number.is_finite() && number >= 0.0;
    number("ratio", "0 or more", tolerance.ratio, is_lawful(tolerance.ratio))?;
    for error in tolerance.errors {
        number("an error", "finite and 0 or more", error, is_lawful(error))?;
    }
    let [e8, e4, e2] = tolerance.errors;
    number("the error of 4 bits", "between those of 8 and 2", e4, e8 <= e4 && e4 <= e2)?;
    for chunk in chunks {
        number("a density", "finite and 0 or more", chunk.density, is_lawful(chunk.density))?;
    }
    Ok(())
}

/// All take the same: those of the highest densities get 8 bits, the next ones 4, the rest 2 (no exchange of two widths
/// loses less). Every number of the first is tried, each with as many of the second as there is room for.
fn by_thresholds(
    graded: &[Graded],
    order: &[usize],
    [b8, b4, b2]: [u64; 3],
    [e8, e4, e2]: [f64; 3],
    budget: u64,
) -> Vec<Width> {
    let sums: Vec<f64> = std::iter::once(0.0)
        .chain(order.iter().scan(0.0, |sum, &i| {
            *sum += graded[i].density;
            Some(*sum)
        }))
        .collect();
    let count = graded.len();
    let mut best = (f64::INFINITY, 0, 0);
    for eights in 0..=count {
        let rest = (count - eights) as u64;
        let Some(left) = budget.checked_sub(eights as u64 * b8) else { continue };
        // 4 bits lose no more than 2: they are all that is used where they take no more.
        let fours = match b4.checked_sub(b2) {
            None | Some(0) => (left >= rest * b4).then_some(rest),
            Some(more) => left.checked_sub(rest * b2).map(|left| (left / more).min(rest)),
        };
        let Some(fours) = fours else { continue };
        let upto = eights + fours as usize;
        let error = e8 * sums[eights] + e4 * (sums[upto] - sums[eights]) + e2 * (sums[count] - sums[upto]);
        // Where it loses nothing more, what there is room for is used.
        if error <= best.0 {
            best = (error, eights, upto);
        }
    }
    let (_, eights, upto) = best;
    let mut chosen = vec![Width::Two; count];
    order[..upto].iter().for_each(|&i| chosen[i] = Width::Four);
    order[..eights].iter().for_each(|&i| chosen[i] = Width::Eight);
    chosen
}

/// A chunk gets wider, by so much less loss for so many bytes.
#[derive(Debug, Clone, Copy)]
struct Step {
    chunk: usize,
    to: Width,
    gain: f64,
    bytes: u64,
}

impl Step {
    fn rate(&self) -> f64 {
        self.gain / self.bytes as f64
    }
}

/// They take different bytes: from the narrowest on, whatever gains most for a byte is widened, as long as there is room.
/// What the first step that finds none would gain bounds what is lost beyond the least possible (Sinha and Zoltners, The
/// Multiple-Choice Knapsack Problem, 1979).
fn by_steps(graded: &[Graded], order: &[usize], errors: [f64; 3], budget: u64) -> Vec<Width> {
    let mut chosen = vec![Width::Two; graded.len()];
    let mut steps: Vec<Step> = Vec::new();
    for &chunk in order {
        chosen[chunk] = steps_of(chunk, &graded[chunk], errors, &mut steps);
    }
    // Stable: a chunk's second step gains less for a byte than its first, or as much and stays behind it.
    steps.sort_by(|a, b| b.rate().partial_cmp(&a.rate()).unwrap_or(Ordering::Equal));
    let held: u64 = graded.iter().zip(&chosen).map(|(chunk, width)| chunk.bytes[*width as usize]).sum();
    let mut left = budget - held;
    let mut is_stuck = vec![false; graded.len()];
    for step in steps {
        if step.bytes <= left && !is_stuck[step.chunk] {
            left -= step.bytes;
            chosen[step.chunk] = step.to;
        } else {
            is_stuck[step.chunk] = true;
        }
    }
    chosen
}

/// The steps by which a chunk is widened best from its narrowest, which is returned: those on the lower convex hull of its
/// bytes and losses.
fn steps_of(chunk: usize, graded: &Graded, errors: [f64; 3], steps: &mut Vec<Step>) -> Width {
    let bytes = |width: Width| graded.bytes[width as usize];
    // Of two that take the same the wider loses no more.
    let mut at = Width::Two;
    for width in [Width::Four, Width::Eight] {
        if bytes(width) <= bytes(at) {
            at = width;
        }
    }
    let narrowest = at;
    loop {
        let step = |to: Width| Step {
            chunk,
            to,
            gain: graded.density * (errors[at as usize] - errors[to as usize]),
            bytes: bytes(to) - bytes(at),
        };
        let wider = Width::ALL.into_iter().filter(|to| *to < at && bytes(*to) > bytes(at)).map(step);
        let Some(best) = wider.max_by(|a, b| a.rate().total_cmp(&b.rate())) else { return narrowest };
        at = best.to;
        steps.push(best);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Squared errors of an ideal uniform quantiser, as shares of the range's.
    const IDEAL: [f64; 3] = [1.0 / (255.0 * 255.0), 1.0 / (15.0 * 15.0), 1.0 / 9.0];
    const BYTES: [u64; 3] = [800, 400, 200];

    fn alike(densities: &[f64], bytes: [u64; 3]) -> Vec<Graded> {
        densities.iter().map(|&density| Graded { density, bytes }).collect()
    }

    fn bits(widths: &Widths) -> Vec<u32> {
        widths.widths.iter().map(|width| width.map_or(16, Width::bits)).collect()
    }

    /// The least loss of all ways there are; `None` if there is none.
    fn brute_force(chunks: &[Graded], tolerance: &Tolerance) -> Option<f64> {
        let all: u64 = chunks.iter().map(|chunk| chunk.bytes[0]).sum();
        let budget = (all as f64 * tolerance.ratio) as u64;
        let ways = 0..3_usize.pow(chunks.len() as u32);
        let losses = ways.filter_map(|way| {
            let widths = (0..chunks.len()).map(|i| way / 3_usize.pow(i as u32) % 3);
            let (mut bytes, mut error) = (0, 0.0);
            for (chunk, width) in chunks.iter().zip(widths) {
                bytes += chunk.bytes[width];
                error += chunk.density * tolerance.errors[width];
            }
            (bytes <= budget).then_some(error)
        });
        losses.min_by(f64::total_cmp)
    }

    #[test]
    fn what_is_attended_to_keeps_its_bits() {
        let tolerance = Tolerance::new(IDEAL);
        assert!((tolerance.exchange() - 48.2).abs() < 0.1, "{}", tolerance.exchange());
        // One chunk is read 48 times as much as two others, or not quite.
        let chosen = |density| bits(&choose_widths(&alike(&[1.0, density, 1.0], BYTES), &tolerance).unwrap());
        assert_eq!((chosen(49.0), chosen(48.0)), (vec![2, 8, 2], vec![4, 4, 4]));
    }

    #[test]
    fn of_equals_the_newer_keeps_more() {
        let tolerance = Tolerance { ratio: 0.6, ..Tolerance::new([0.0, 0.1, 0.2]) };
        let widths = choose_widths(&alike(&[1.0; 5], BYTES), &tolerance).unwrap();
        assert_eq!((bits(&widths), widths.bytes), (vec![4, 4, 4, 4, 8], 2400));
        assert!((widths.error - 0.4).abs() < 1e-12);
    }

    #[test]
    fn the_newest_are_left_as_they_are_and_not_counted() {
        let tolerance = Tolerance { newest: 2, ..Tolerance::new(IDEAL) };
        let widths = choose_widths(&alike(&[1.0; 4], BYTES), &tolerance).unwrap();
        assert_eq!((bits(&widths), widths.bytes), (vec![4, 4, 16, 16], 800));
        for newest in [4, 9] {
            let widths = choose_widths(&alike(&[1.0; 4], BYTES), &Tolerance { newest, ..tolerance }).unwrap();
            assert_eq!((bits(&widths), widths.bytes, widths.error), (vec![16; 4], 0, 0.0));
        }
        assert_eq!(bits(&choose_widths(&[], &tolerance).unwrap()), [0; 0]);
    }

    /// With a scale and a zero for each channel over 16 tokens 2 bits take what 4 do without.
    #[test]
    fn scales_are_paid_for() {
        let scaled = alike(&[9.0, 2.0, 1.0], [1000, 600, 400]);
        let half = choose_widths(&scaled, &Tolerance::new(IDEAL)).unwrap();
        assert_eq!((bits(&half), half.bytes), (vec![4, 2, 2], 1400));
        // A width that saves nothing is not used.
        let useless = alike(&[9.0, 2.0, 1.0], [1000, 500, 500]);
        assert_eq!(bits(&choose_widths(&useless, &Tolerance::new(IDEAL)).unwrap()), [4; 3]);
    }

    #[test]
    fn room_goes_where_a_byte_gains_most() {
        // What is read most is a hundred times as large as the others, which are read nearly as much.
        let large = Graded { density: 1.0, bytes: [80_000, 40_000, 20_000] };
        let small = Graded { density: 0.9, bytes: [800, 400, 200] };
        let mut chunks = vec![large];
        chunks.extend([small; 30]);
        let tolerance = Tolerance { ratio: 0.48, ..Tolerance::new([0.0, 0.1, 0.4]) };
        let widths = choose_widths(&chunks, &tolerance).unwrap();
        assert_eq!(bits(&widths), [vec![2], vec![8; 30]].concat());
    }

    #[test]
    fn all_have_8_bits_where_there_is_room_and_too_little_room_is_refused() {
        let chunks = alike(&[3.0, 0.0, 1.0], BYTES);
        let with = |ratio| choose_widths(&chunks, &Tolerance { ratio, ..Tolerance::new(IDEAL) });
        for ratio in [1.0, 7.0] {
            assert_eq!(bits(&with(ratio).unwrap()), [8; 3]);
        }
        assert_eq!(bits(&with(0.25).unwrap()), [2; 3]);
        assert_eq!(with(0.249), Err(ToleranceError::TooTight { least: 600, budget: 597 }));
        let mixed = [chunks[0], Graded { bytes: [100, 50, 26], ..chunks[1] }];
        let narrow = Tolerance { ratio: 0.25, ..Tolerance::new(IDEAL) };
        assert_eq!(choose_widths(&mixed, &narrow), Err(ToleranceError::TooTight { least: 226, budget: 225 }));
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        let refuses = |density: f64, errors, ratio| {
            let chosen =
                choose_widths(&alike(&[1.0, density], BYTES), &Tolerance { errors, ratio, newest: 0 });
            assert!(matches!(chosen, Err(ToleranceError::Number { .. })), "{chosen:?}");
        };
        for wrong in [f64::NAN, -1.0, f64::INFINITY] {
            refuses(wrong, IDEAL, 0.5);
            refuses(1.0, IDEAL, wrong);
            (0..3).for_each(|place| {
                let mut errors = IDEAL;
                errors[place] = wrong;
                refuses(1.0, errors, 0.5);
            });
        }
        // A narrower width loses no less.
        refuses(1.0, [0.2, 0.1, 0.3], 0.5);
        refuses(1.0, [0.1, 0.3, 0.2], 0.5);
    }

    fn errors() -> impl Strategy<Value = [f64; 3]> {
        // Equal ones too.
        prop::array::uniform3(prop_oneof![0.0..1.0_f64, Just(0.5)]).prop_map(|mut errors| {
            errors.sort_by(f64::total_cmp);
            errors
        })
    }

    fn density() -> impl Strategy<Value = f64> {
        prop_oneof![0.0..1.0_f64, Just(0.25), Just(0.0), 0.0..50.0_f64]
    }

    proptest! {
        #[test]
        fn no_way_loses_less_where_all_take_the_same(
            densities in prop::collection::vec(density(), 0..8),
            bytes in prop::array::uniform3(1_u64..1000),
            errors in errors(),
            ratio in 0.0..1.2_f64,
        ) {
            let (chunks, tolerance) = (alike(&densities, bytes), Tolerance { errors, ratio, newest: 0 });
            match (choose_widths(&chunks, &tolerance), brute_force(&chunks, &tolerance)) {
                (Ok(chosen), Some(least)) => prop_assert!(chosen.error <= least + 1e-9, "{chosen:?}, {least}"),
                (Err(ToleranceError::TooTight { .. }), None) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn what_takes_different_bytes_loses_at_most_one_step_more(
            chunks in prop::collection::vec((density(), prop::array::uniform3(1_u64..1000)), 0..8),
            errors in errors(),
            ratio in 0.0..1.2_f64,
        ) {
            let chunks: Vec<Graded> = chunks.into_iter().map(|(density, bytes)| Graded { density, bytes }).collect();
            let tolerance = Tolerance { errors, ratio, newest: 0 };
            let step = chunks.iter().map(|chunk| chunk.density * (errors[2] - errors[0])).fold(0.0, f64::max);
            match (choose_widths(&chunks, &tolerance), brute_force(&chunks, &tolerance)) {
                (Ok(chosen), Some(least)) => {
                    let all: u64 = chunks.iter().map(|chunk| chunk.bytes[0]).sum();
                    prop_assert!(chosen.bytes as f64 <= all as f64 * ratio);
                    prop_assert!(chosen.error <= least + step + 1e-9, "{chosen:?}, {least}, {step}");
                }
                (Err(ToleranceError::TooTight { .. }), None) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }

        /// The rule that follows from κ, where it holds.
        #[test]
        fn the_exchange_finds_the_same(
            densities in prop::collection::vec(density(), 1..40),
            errors in errors(),
        ) {
            let tolerance = Tolerance::new(errors);
            let chosen = choose_widths(&alike(&densities, BYTES), &tolerance).unwrap();
            let mut sorted = densities;
            sorted.sort_by(|a, b| b.total_cmp(a));
            let count = sorted.len();
            let mut eights = 0;
            while 3 * (eights + 1) <= count {
                let mean = (sorted[count - 1 - 2 * eights] + sorted[count - 2 - 2 * eights]) / 2.0;
                if sorted[eights] * (errors[1] - errors[0]) <= 2.0 * mean * (errors[2] - errors[1]) {
                    break;
                }
                eights += 1;
            }
            let of = |i: usize| match i {
                _ if i < eights => errors[0],
                _ if i + 2 * eights < count => errors[1],
                _ => errors[2],
            };
            let error: f64 = sorted.iter().enumerate().map(|(i, density)| density * of(i)).sum();
            prop_assert!((chosen.error - error).abs() < 1e-9, "{chosen:?}, {error} with {eights} of 8 bits");
        }
    }
}
