//! Recording and encoding. A [`Recording`] collects dispatches and copies with their parameters, tables and
//! host data; nothing reaches the device until [`Submitter::submit`] sends all of it at once. So whatever
//! fails while recording has done nothing.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::Pod;
use interleaf_contract::{Arrival, BackendError};
use wgpu::BufferUsages;

use crate::buffers::{BufferPool, STORAGE};
use crate::cost::Loads;
use crate::decide::grid;
use crate::device::Gpu;
use crate::error;
use crate::kernel::{Access, Compiled, Kernel, Kernels};
use crate::work::Profiler;

/// Offset alignment of a slot of parameters: the lowest tier's for dynamic uniform offsets.
const PARAMS_SLOT: usize = 256;

/// Bind groups that are kept for steps to come. A model of 32 layers uses a few hundred in each of its
/// shapes; beyond this, all are forgotten and made again.
const BIND_GROUPS: usize = 4096;

/// A buffer as recorded; those that exist once per submission are only known when it is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// A buffer of its own.
    Buffer(wgpu::Buffer),
    /// [`Recording::tables`].
    Tables,
    /// What [`Recording::upload`] collects.
    Uploads,
    /// Where the host reads results.
    ReadBack,
}

#[derive(Debug)]
enum Command {
    Dispatch {
        kernel: Kernel,
        compiled: Arc<Compiled>,
        places: Vec<Place>,
        params_at: u32,
        grid: (u32, u32),
        loads: Loads,
    },
    Copy {
        from: (Place, u64),
        to: (Place, u64),
        bytes: u64,
    },
    /// Pages of a layer come, while all before them runs.
    Arrive {
        layer: u32,
        pages: Arrival,
        stripe: wgpu::Buffer,
    },
}

/// What a submission consists of.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    /// Words that kernels look things up in: row lists, sites, page tables.
    pub tables: Vec<u32>,
    params: Vec<u8>,
    uploads: Vec<u8>,
    read_back: u64,
    commands: Vec<Command>,
}

impl Recording {
    /// Collects host bytes, whole words, and returns where they will be in [`Place::Uploads`].
    pub(crate) fn upload(&mut self, bytes: &[u8]) -> u64 {
        let at = self.uploads.len() as u64;
        self.uploads.extend_from_slice(bytes);
        at
    }

    /// Records a copy of whole words.
    pub(crate) fn copy(&mut self, from: (Place, u64), to: (Place, u64), bytes: u64) {
        if bytes > 0 {
            self.commands.push(Command::Copy { from, to, bytes });
        }
    }

    /// Records that pages of a layer come into its stripe.
    pub(crate) fn arrive(&mut self, layer: u32, pages: Arrival, stripe: wgpu::Buffer) {
        self.commands.push(Command::Arrive { layer, pages, stripe });
    }

    /// Records a copy to the host and returns where it will be in what is read back.
    pub(crate) fn read_back(&mut self, from: Place, at: u64, bytes: u64) -> u64 {
        let to = self.read_back;
        self.read_back += bytes;
        self.copy((from, at), (Place::ReadBack, to), bytes);
        to
    }

    /// Every dispatch in order: its kernel's name and what it loads.
    pub(crate) fn dispatches(&self) -> impl Iterator<Item = (&'static str, Loads)> + '_ {
        self.commands.iter().filter_map(|command| match command {
            Command::Dispatch { compiled, loads, .. } => Some((compiled.name, *loads)),
            Command::Copy { .. } | Command::Arrive { .. } => None,
        })
    }

    /// Makes room in what is read back for bytes that are not copied by a command, and returns where.
    pub(crate) fn reserve_read_back(&mut self, bytes: u64, alignment: u64) -> u64 {
        let at = self.read_back.next_multiple_of(alignment);
        self.read_back = at + bytes;
        at
    }

    /// Bytes that the host will read.
    pub(crate) const fn read_back_bytes(&self) -> u64 {
        self.read_back
    }
}

/// Records kernels, with what their pipelines and their memory come from.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    pub gpu: &'a Gpu,
    /// Activations and scratch.
    pub scratch: &'a mut BufferPool,
    pub recording: Recording,
    kernels: &'a mut Kernels,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(gpu: &'a Gpu, kernels: &'a mut Kernels, scratch: &'a mut BufferPool) -> Self {
        Self { gpu, scratch, recording: Recording::default(), kernels }
    }

    /// Records a kernel over a number of workgroups, and what they load; none of them is nothing to do. What it reads of
    /// a buffer that it also writes is copied first: a device takes a buffer either way in a dispatch, and not both.
    pub(crate) fn dispatch<P: Pod>(
        &mut self,
        kernel: Kernel,
        params: &P,
        mut places: Vec<Place>,
        workgroups: u64,
        loads: Loads,
    ) -> Result<(), BackendError> {
        if workgroups == 0 {
            return Ok(());
        }
        let Some(grid) = grid(self.gpu.caps, workgroups) else {
            return Err(error::unsupported(format!("a dispatch of {workgroups} workgroups")));
        };
        let compiled = self.kernels.get(self.gpu, kernel)?;
        self.separate(&compiled, &mut places)?;
        let Recording { params: slots, commands, .. } = &mut self.recording;
        let params_at = word(slots.len());
        slots.extend_from_slice(bytemuck::bytes_of(params));
        slots.resize(slots.len().next_multiple_of(PARAMS_SLOT), 0);
        commands.push(Command::Dispatch { kernel, compiled, places, params_at, grid, loads });
        Ok(())
    }
}

impl Recorder<'_> {
    /// Puts copies in the place of buffers that a kernel would read and write.
    fn separate(&mut self, compiled: &Compiled, places: &mut [Place]) -> Result<(), BackendError> {
        let written: Vec<Place> = (compiled.bindings.iter().zip(places.iter()))
            .filter(|(access, _)| **access == Access::Write)
            .map(|(_, place)| place.clone())
            .collect();
        for (access, place) in compiled.bindings.iter().zip(places.iter_mut()) {
            if *access == Access::Read
                && written.contains(place)
                && let Place::Buffer(buffer) = place.clone()
            {
                let copy = self.scratch.take(self.gpu, buffer.size())?;
                let bytes = buffer.size();
                self.recording.copy((Place::Buffer(buffer), 0), (Place::Buffer(copy.clone()), 0), bytes);
                // Free for whatever is recorded after this dispatch.
                self.scratch.give(&copy);
                *place = Place::Buffer(copy);
            }
        }
        Ok(())
    }
}

/// The buffers that every submission rewrites, and the bind groups made so far. Writes are ordered with
/// submissions, so one set serves all steps of a size, however many are under way.
#[derive(Debug)]
pub(crate) struct Submitter {
    params: BufferPool,
    tables: BufferPool,
    uploads: BufferPool,
    bind_groups: HashMap<(Kernel, Vec<wgpu::Buffer>), wgpu::BindGroup>,
    /// Kernels in one command buffer; 0 for all of a submission.
    dispatches: usize,
}

impl Submitter {
    /// With so many kernels in a command buffer at most; 0 for all of a step.
    pub(crate) fn new(dispatches: usize) -> Self {
        Self {
            dispatches,
            params: BufferPool::new("parameters", BufferUsages::UNIFORM.union(BufferUsages::COPY_DST)),
            tables: BufferPool::new("step tables", STORAGE),
            uploads: BufferPool::new("uploads", BufferUsages::COPY_SRC.union(BufferUsages::COPY_DST)),
            bind_groups: HashMap::new(),
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.params.bytes() + self.tables.bytes() + self.uploads.bytes()
    }

    /// Begins another step, and returns whether that freed buffers ([`BufferPool::next_step`]).
    pub(crate) fn next_step(&mut self) -> bool {
        let freed = [&mut self.params, &mut self.tables, &mut self.uploads].map(BufferPool::next_step);
        freed.contains(&true)
    }

    /// Forgets bind groups, which keep their buffers alive. For when buffers are freed or replaced.
    pub(crate) fn forget_bind_groups(&mut self) {
        self.bind_groups.clear();
    }

    /// Command buffers that a recording takes.
    pub(crate) fn command_buffers(&self, recording: &Recording) -> u64 {
        let arrivals = recording.commands.iter().filter(|command| matches!(command, Command::Arrive { .. }));
        (self.stretches(recording).count() + arrivals.count()) as u64
    }

    /// The commands of each command buffer.
    fn stretches<'a>(&self, recording: &'a Recording) -> impl Iterator<Item = &'a [Command]> + use<'a> {
        let most = if self.dispatches == 0 { usize::MAX } else { self.dispatches };
        let mut rest = recording.commands.as_slice();
        let mut first = true;
        std::iter::from_fn(move || {
            // A recording without commands is submitted too: what waits for it waits for those before.
            if rest.is_empty() && !first {
                return None;
            }
            first = false;
            let dispatches = rest.iter().enumerate().filter(|(_, c)| matches!(c, Command::Dispatch { .. }));
            let end = dispatches.map(|(i, _)| i).nth(most).unwrap_or(rest.len());
            let (stretch, behind) = rest.split_at(end);
            rest = behind;
            Some(stretch)
        })
    }

    /// Sends a recording, in one command buffer unless a setting splits it: consecutive kernels share a pass.
    /// `read_back` is mapped once it has run; `mapped` is called then.
    pub(crate) fn submit(
        &mut self,
        gpu: &Gpu,
        recording: &Recording,
        read_back: Option<&wgpu::Buffer>,
        profile: Option<(&Profiler, u64)>,
        mapped: impl FnOnce(Result<(), wgpu::BufferAsyncError>) + Send + 'static,
    ) -> Result<wgpu::SubmissionIndex, BackendError> {
        let params = self.params.fill(gpu, &recording.params)?;
        let tables = self.tables.fill(gpu, bytemuck::cast_slice(&recording.tables))?;
        let uploads = self.uploads.fill(gpu, &recording.uploads)?;
        let find = |place: &Place| match place {
            Place::Buffer(buffer) => Ok(buffer.clone()),
            Place::Tables => Ok(tables.clone()),
            Place::Uploads => Ok(uploads.clone()),
            Place::ReadBack => read_back.cloned().ok_or_else(|| error::device("nothing to read back to")),
        };
        let mut groups = Vec::new();
        for command in &recording.commands {
            if let Command::Dispatch { kernel, compiled, places, .. } = command {
                let buffers = places.iter().map(find).collect::<Result<Vec<_>, _>>()?;
                groups.push(self.bind_group(gpu, *kernel, compiled, &params, buffers)?);
            }
        }
        gpu.guarded("submission", 0, || {
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("step") };
            let mut kernels = KernelEncoder {
                groups: groups.iter(),
                profiler: profile.map(|(profiler, _)| profiler),
                dispatched: 0,
                #[cfg(test)]
                counters: gpu.counter_group(),
            };
            let kind = std::mem::discriminant::<Command>;
            let mut encoder = gpu.device.create_command_encoder(&descriptor);
            for (i, stretch) in self.stretches(recording).enumerate() {
                if i > 0 {
                    let next = gpu.device.create_command_encoder(&descriptor);
                    gpu.queue.submit([std::mem::replace(&mut encoder, next).finish()]);
                }
                for run in stretch.chunk_by(|a, b| kind(a) == kind(b)) {
                    for command in run {
                        let Command::Arrive { layer, pages, stripe } = command else { continue };
                        // What the host writes comes before all that is submitted later, and after what is now.
                        let next = gpu.device.create_command_encoder(&descriptor);
                        gpu.queue.submit([std::mem::replace(&mut encoder, next).finish()]);
                        pages.put(*layer, |place, bytes| {
                            gpu.queue.write_buffer(stripe, place.bytes().start as u64, &bytes);
                            Ok::<(), BackendError>(())
                        })?;
                    }
                    kernels.encode(&mut encoder, run);
                    encode_copies(&mut encoder, run, &find)?;
                }
            }
            if let (Some((profiler, at)), Some(buffer)) = (profile, read_back) {
                profiler.resolve(&mut encoder, kernels.dispatched, (buffer, at));
            }
            if let Some(buffer) = read_back {
                encoder.map_buffer_on_submit(buffer, wgpu::MapMode::Read, .., mapped);
            }
            Ok(gpu.queue.submit([encoder.finish()]))
        })?
    }

    fn bind_group(
        &mut self,
        gpu: &Gpu,
        kernel: Kernel,
        compiled: &Compiled,
        params: &wgpu::Buffer,
        buffers: Vec<wgpu::Buffer>,
    ) -> Result<wgpu::BindGroup, BackendError> {
        let mut key = (kernel, buffers);
        key.1.push(params.clone());
        if let Some(group) = self.bind_groups.get(&key) {
            return Ok(group.clone());
        }
        if self.bind_groups.len() >= BIND_GROUPS {
            self.bind_groups.clear();
        }
        let name = compiled.name;
        let group = gpu.guarded(name, 0, || {
            let window = wgpu::BufferBinding { buffer: params, offset: 0, size: Some(compiled.params) };
            let uniform =
                wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(window) };
            let storage = key.1[..key.1.len() - 1].iter().zip(1..).map(|(buffer, binding)| {
                wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() }
            });
            let entries: Vec<_> = std::iter::once(uniform).chain(storage).collect();
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(name),
                layout: &compiled.layout,
                entries: &entries,
            })
        })?;
        self.bind_groups.insert(key, group.clone());
        Ok(group)
    }
}

/// Encodes the kernels of a submission, in passes.
struct KernelEncoder<'a> {
    groups: std::slice::Iter<'a, wgpu::BindGroup>,
    profiler: Option<&'a Profiler>,
    dispatched: usize,
    #[cfg(test)]
    counters: Option<wgpu::BindGroup>,
}

impl KernelEncoder<'_> {
    /// Encodes consecutive kernels.
    fn encode(&mut self, encoder: &mut wgpu::CommandEncoder, run: &[Command]) {
        let mut pass = None;
        for command in run {
            let Command::Dispatch { compiled, params_at, grid: (x, y), .. } = command else { continue };
            let timed = self.profiler.and_then(|profiler| Some((profiler, profiler.pair(self.dispatched)?)));
            // Without timestamps inside a pass, each kernel that is timed has one of its own.
            let boundaries = timed.filter(|(profiler, _)| !profiler.inside_passes);
            if boundaries.is_some() {
                pass = None;
            }
            let pass = pass.get_or_insert_with(|| {
                let timestamp_writes =
                    boundaries.map(|(profiler, [before, after])| wgpu::ComputePassTimestampWrites {
                        query_set: &profiler.queries,
                        beginning_of_pass_write_index: Some(before),
                        end_of_pass_write_index: Some(after),
                    });
                let label = Some(compiled.name);
                let descriptor = wgpu::ComputePassDescriptor { label, timestamp_writes };
                encoder.begin_compute_pass(&descriptor).forget_lifetime()
            });
            let inside = timed.filter(|(profiler, _)| profiler.inside_passes);
            if let Some((profiler, [before, _])) = inside {
                pass.write_timestamp(&profiler.queries, before);
            }
            pass.set_pipeline(&compiled.pipeline);
            pass.set_bind_group(0, self.groups.next(), &[*params_at]);
            #[cfg(test)]
            if let Some(counters) = &self.counters {
                pass.set_bind_group(1, counters, &[]);
            }
            pass.dispatch_workgroups(*x, *y, 1);
            if let Some((profiler, [_, after])) = inside {
                pass.write_timestamp(&profiler.queries, after);
            }
            self.dispatched += 1;
        }
    }
}

fn encode_copies(
    encoder: &mut wgpu::CommandEncoder,
    run: &[Command],
    find: &impl Fn(&Place) -> Result<wgpu::Buffer, BackendError>,
) -> Result<(), BackendError> {
    for command in run {
        if let Command::Copy { from, to, bytes } = command {
            encoder.copy_buffer_to_buffer(&find(&from.0)?, from.1, &find(&to.0)?, to.1, *bytes);
        }
    }
    Ok(())
}

/// A count or an index as kernels hold it. What does not fit into a u32 does not fit into a buffer either,
/// and is refused when that is created.
pub(crate) fn word(value: impl TryInto<u32>) -> u32 {
    value.try_into().unwrap_or(u32::MAX)
}
