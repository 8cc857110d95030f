//! What a device does at best, for who compares it with what a model's kernels reach. Times are the host's, from a
//! submission until its answer has been read: what is long is repeated until that does not matter, what is short is
//! what a step of a model pays as well. Every answer is checked, so that nothing is timed that was not done.

use std::time::Instant;

use interleaf_contract::{BackendError, DevicePeaks};

use crate::buffers::{BufferPool, READ_BACK, STORAGE, Uploader, create};
use crate::command::{Place, Recorder, Submitter};
use crate::device::Gpu;
use crate::error;
use crate::kernel::Kernels;
use crate::readback::Pending;
use crate::roofline::{self, CHUNK, FMA_BYTES, FMA_OPERATIONS};

/// Bytes that are read where the device can hold them: many times any cache.
pub(crate) const MOST_READ: u64 = 1 << 30;

/// Where there is not even room for so many, there is nothing to measure.
const LEAST_READ: u64 = 64 << 20;

/// Seconds of a submission beside which its latency does not matter, and no watchdog wakes.
const LONG: f64 = 0.1;

/// Submissions of the final length in one look; the best counts.
const LOOKS: usize = 3;

/// The same of short ones, which whatever else the machine does disturbs more.
const SHORT_LOOKS: usize = 32;

/// Dispatches by which a longer step exceeds an empty one.
const FURTHER: u32 = 100;

/// Bytes of answers of `roofline_fma` that are checked: a few workgroups'.
const CHECKED: u64 = 4096;

/// What is measured with, and what it holds.
#[derive(Debug)]
pub(crate) struct Probe {
    runner: Runner,
    pieces: Vec<Piece>,
    /// Times that all pieces have been read.
    passes: u32,
    answers: wgpu::Buffer,
    counter: wgpu::Buffer,
    /// Dispatches that have been counted.
    count: u32,
}

/// As much of what is read as one binding reaches.
#[derive(Debug)]
struct Piece {
    data: wgpu::Buffer,
    /// What the device adds up.
    sums: wgpu::Buffer,
    /// What one pass adds to that, chunk by chunk.
    expected: Vec<u32>,
}

impl Probe {
    /// Takes the memory that is read: `most` bytes, or half as often as there is no room for them.
    pub(crate) fn new(gpu: &Gpu, most: u64) -> Result<Self, BackendError> {
        let pieces = as_much_as_fits(most, |bytes| {
            // What an earlier attempt took is free once nothing is under way.
            gpu.wait_for_all()?;
            pieces(gpu, bytes)
        })?;
        Ok(Self {
            runner: Runner::new(gpu),
            pieces,
            passes: 0,
            answers: create(gpu, "the roofline's answers", FMA_BYTES, STORAGE)?,
            counter: create(gpu, "the roofline's count", 4, STORAGE)?,
            count: 0,
        })
    }

    /// Looks once.
    pub(crate) fn look(&mut self, gpu: &Gpu, kernels: &mut Kernels) -> Result<DevicePeaks, BackendError> {
        let read_bytes = self.read_bytes();
        let passes = most_often(|passes| self.read(gpu, kernels, passes))?;
        let multiplied = most_often(|times| self.multiply(gpu, kernels, times))?;
        let step_seconds = self.least(gpu, kernels, 1)?;
        let longer = self.least(gpu, kernels, 1 + FURTHER)?;
        Ok(DevicePeaks {
            read_bytes,
            read_bytes_per_second: passes * read_bytes as f64,
            f32_operations_per_second: multiplied * FMA_OPERATIONS as f64,
            step_seconds,
            dispatch_seconds: (longer - step_seconds).max(0.0) / f64::from(FURTHER),
        })
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        let sums: u64 = self.pieces.iter().map(|piece| piece.sums.size()).sum();
        self.read_bytes() + sums + self.answers.size() + self.counter.size() + self.runner.bytes()
    }

    fn read_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.data.size()).sum()
    }

    /// Seconds of reading everything so many times.
    fn read(&mut self, gpu: &Gpu, kernels: &mut Kernels, passes: u32) -> Result<f64, BackendError> {
        let Self { runner, pieces, .. } = self;
        let (sums, seconds) = runner.run(gpu, kernels, |recorder| {
            for piece in (0..passes).flat_map(|_| pieces.iter()) {
                roofline::read(recorder, &piece.data, piece.expected.len() as u64, &piece.sums)?;
            }
            for Piece { sums, expected, .. } in &*pieces {
                recorder.recording.read_back(Place::Buffer(sums.clone()), 0, 4 * expected.len() as u64);
            }
            Ok(())
        })?;
        self.passes = self.passes.wrapping_add(passes);
        let expected = self.pieces.iter().flat_map(|piece| &piece.expected);
        let expected = expected.map(|sum| sum.wrapping_mul(self.passes));
        match words(&sums).eq(expected) {
            true => Ok(seconds),
            false => Err(error::device("roofline_read: wrong sums")),
        }
    }

    /// Seconds of so many dispatches of multiply-adds.
    fn multiply(&mut self, gpu: &Gpu, kernels: &mut Kernels, times: u32) -> Result<f64, BackendError> {
        let answers = &self.answers;
        let (found, seconds) = self.runner.run(gpu, kernels, |recorder| {
            (0..times).try_for_each(|_| roofline::fma(recorder, answers))?;
            recorder.recording.read_back(Place::Buffer(answers.clone()), 0, CHECKED);
            Ok(())
        })?;
        let right = |(index, word)| roofline::is_fma_answer(index, f32::from_bits(word));
        match words(&found).enumerate().all(right) {
            true => Ok(seconds),
            false => Err(error::device("roofline_fma: wrong answers")),
        }
    }

    /// The least seconds of a step of so many dispatches that do next to nothing.
    fn least(&mut self, gpu: &Gpu, kernels: &mut Kernels, dispatches: u32) -> Result<f64, BackendError> {
        let counter = &self.counter;
        let mut least = f64::INFINITY;
        for _ in 0..SHORT_LOOKS {
            let (found, seconds) = self.runner.run(gpu, kernels, |recorder| {
                (0..dispatches).try_for_each(|_| roofline::count(recorder, counter))?;
                recorder.recording.read_back(Place::Buffer(counter.clone()), 0, 4);
                Ok(())
            })?;
            self.count = self.count.wrapping_add(dispatches);
            if !words(&found).eq([self.count]) {
                return Err(error::device("roofline_count: a wrong count"));
            }
            least = least.min(seconds);
        }
        Ok(least)
    }
}

/// What is taken for `most` bytes, or for half as many as often as there is no room.
fn as_much_as_fits<T>(
    most: u64,
    mut take: impl FnMut(u64) -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    let mut bytes = most;
    loop {
        match take(bytes) {
            Err(BackendError::OutOfMemory { .. }) if bytes / 2 >= LEAST_READ => bytes /= 2,
            done => return done,
        }
    }
}

/// Buffers of so many bytes in all, or a little more, full of words that are known.
fn pieces(gpu: &Gpu, bytes: u64) -> Result<Vec<Piece>, BackendError> {
    let most = (gpu.caps.binding_bytes / CHUNK).max(1);
    let chunks = bytes.div_ceil(CHUNK);
    let count = chunks.div_ceil(most);
    let mut uploader = Uploader::new(gpu);
    let mut pieces = Vec::new();
    for piece in 0..count {
        let (first, end) = (chunks * piece / count, chunks * (piece + 1) / count);
        let data = create(gpu, "the roofline's words", (end - first) * CHUNK, STORAGE)?;
        let sums = create(gpu, "the roofline's sums", (end - first) * 4, STORAGE)?;
        let mut expected = Vec::new();
        for chunk in first..end {
            let words: Vec<u32> = (chunk * CHUNK / 4..(chunk + 1) * CHUNK / 4).map(roofline::word).collect();
            uploader.write(
                "the roofline's words",
                &data,
                (chunk - first) * CHUNK,
                bytemuck::cast_slice(&words),
            )?;
            expected.push(words.into_iter().fold(0, u32::wrapping_add));
        }
        pieces.push(Piece { data, sums, expected });
    }
    uploader.finish("the roofline's words")?;
    gpu.wait_for_all()?;
    Ok(pieces)
}

/// The most times a second of something whose seconds are known for a number of times: of as many as take long.
fn most_often(mut seconds: impl FnMut(u32) -> Result<f64, BackendError>) -> Result<f64, BackendError> {
    let mut times = 1;
    while seconds(times)? < LONG {
        times *= 2;
    }
    let mut least = f64::INFINITY;
    for _ in 0..LOOKS {
        least = least.min(seconds(times)?);
    }
    Ok(f64::from(times) / least)
}

/// What is read back, as words.
fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word))
}

/// Runs recordings one by one.
#[derive(Debug)]
struct Runner {
    submitter: Submitter,
    scratch: BufferPool,
    read_backs: BufferPool,
}

impl Runner {
    /// In command buffers as steps have them.
    fn new(gpu: &Gpu) -> Self {
        Self {
            submitter: Submitter::new(gpu.dispatches),
            scratch: BufferPool::new("the roofline's scratch", STORAGE),
            read_backs: BufferPool::new("the roofline's results", READ_BACK),
        }
    }

    /// What a recording reads back, and the seconds from its submission until that is there. Recording itself, which
    /// compiles kernels, is not timed.
    fn run(
        &mut self,
        gpu: &Gpu,
        kernels: &mut Kernels,
        record: impl FnOnce(&mut Recorder<'_>) -> Result<(), BackendError>,
    ) -> Result<(Vec<u8>, f64), BackendError> {
        let Self { submitter, scratch, read_backs } = self;
        let mut recorder = Recorder::new(gpu, kernels, scratch);
        record(&mut recorder)?;
        let recording = recorder.recording;
        let start = Instant::now();
        let pending = Pending::submit(gpu, submitter, read_backs, &recording, None)?;
        let found = pending.wait(gpu, read_backs)?;
        Ok((found, start.elapsed().as_secs_f64()))
    }

    /// Bytes held.
    fn bytes(&self) -> u64 {
        self.submitter.bytes() + self.scratch.bytes() + self.read_backs.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GpuOptions;

    /// A device whose bindings reach so far.
    fn device(binding_bytes: u64) -> Option<Gpu> {
        let options = GpuOptions { binding_bytes: Some(binding_bytes), ..GpuOptions::default() };
        match Gpu::open(&options) {
            Ok(gpu) => Some(gpu),
            Err(reason) => {
                assert!(std::env::var_os("INTERLEAF_REQUIRE_GPU").is_none(), "no GPU: {reason}");
                println!("SKIPPED: {reason}");
                None
            }
        }
    }

    #[test]
    fn every_word_is_read_in_every_pass() {
        let Some(gpu) = device(32 * CHUNK) else { return };
        let (mut kernels, chunks) = (Kernels::default(), 80);
        // A word that is not what it should be is noticed, so it is read.
        for (piece, word) in [(0, 0), (1, CHUNK / 4 + 1), (2, 27 * CHUNK / 4 - 1)] {
            let mut probe = Probe::new(&gpu, chunks * CHUNK).unwrap();
            let found: Vec<usize> = probe.pieces.iter().map(|piece| piece.expected.len()).collect();
            assert_eq!((found, probe.read_bytes()), (vec![26, 27, 27], chunks * CHUNK));
            for passes in [1, 3] {
                assert!(probe.read(&gpu, &mut kernels, passes).unwrap() > 0.0);
            }
            gpu.queue.write_buffer(&probe.pieces[piece].data, 4 * word, &7_u32.to_le_bytes());
            assert!(probe.read(&gpu, &mut kernels, 1).is_err(), "word {word} of piece {piece}");
        }
    }

    #[test]
    fn answers_are_of_every_step_and_every_dispatch_counts() {
        let Some(gpu) = device(1 << 27) else { return };
        let (mut probe, mut kernels) = (Probe::new(&gpu, CHUNK).unwrap(), Kernels::default());
        assert!(probe.multiply(&gpu, &mut kernels, 1).unwrap() > 0.0);
        for dispatches in [1, 5] {
            assert!(probe.least(&gpu, &mut kernels, dispatches).unwrap() > 0.0);
        }
        assert_eq!(probe.count, 6 * u32::try_from(SHORT_LOOKS).unwrap());
        probe.count += 1;
        assert!(probe.least(&gpu, &mut kernels, 1).is_err());
    }

    #[test]
    fn a_device_with_less_room_is_asked_for_less() {
        let with = |room: u64| {
            as_much_as_fits(MOST_READ, |bytes| match bytes <= room {
                true => Ok(bytes),
                false => Err(error::no_room("words", bytes, "none left")),
            })
        };
        assert_eq!(
            [MOST_READ, 600 << 20, LEAST_READ].map(|room| with(room).unwrap()),
            [1 << 30, 1 << 29, 1 << 26]
        );
        assert!(matches!(with(LEAST_READ - 1), Err(BackendError::OutOfMemory { bytes: LEAST_READ, .. })));
        let mut asked = 0;
        let lost = as_much_as_fits(MOST_READ, |_| {
            asked += 1;
            Err::<(), _>(error::lost("gone"))
        });
        assert!(matches!((lost, asked), (Err(BackendError::DeviceLost { .. }), 1)));
    }

    #[test]
    fn rates_are_of_what_takes_long() {
        let mut asked = Vec::new();
        let rate = most_often(|times| {
            asked.push(times);
            Ok(f64::from(times) * LONG / 3.0)
        });
        assert_eq!(asked, [1, 2, 4, 4, 4, 4]);
        assert!((rate.unwrap() * LONG - 3.0).abs() < 1e-9);
    }
}
