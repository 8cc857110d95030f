//! Adapters on the device: A and B of every site in one buffer, so that a kernel binds one, whatever mix
//! of adapters a batch has. Adapters come and go in it through a free list; the base is never touched.

use std::collections::HashMap;

use interleaf_contract::{Adapter, AdapterId, BackendError, Dtype, LoraSite, ProjectionId};

use crate::buffers::{Uploader, grown};
use crate::command::word;
use crate::device::Gpu;
use crate::error;
use crate::extents::{Extent, Extents};
use crate::pack::{RowLayout, UNIT_BYTES, codes, widen_rows};

/// The buffer's first size. It doubles from there: growing copies it once on the device.
const FIRST_BYTES: u64 = 1 << 20;

const UNIT: u64 = UNIT_BYTES as u64;

/// Where the factors of one site are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Site {
    pub rank: u32,
    pub scale: f32,
    pub a_dtype: Dtype,
    /// A's first row, in units. Rows are whole units.
    pub a_at: u32,
    pub b_dtype: Dtype,
    /// B's first row, in u32. Rows are whole u32: exact to the rank.
    pub b_at: u32,
}

#[derive(Debug)]
struct ResidentAdapter {
    sites: HashMap<ProjectionId, Site>,
    extent: Extent,
}

/// Every resident adapter.
#[derive(Debug, Default)]
pub(crate) struct Factors {
    buffer: Option<wgpu::Buffer>,
    extents: Extents,
    adapters: HashMap<AdapterId, ResidentAdapter>,
    created: u32,
}

impl Factors {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.buffer.as_ref().map_or(0, wgpu::Buffer::size)
    }

    /// The buffer of all factors; `None` before the first adapter that has any.
    pub(crate) const fn buffer(&self) -> Option<&wgpu::Buffer> {
        self.buffer.as_ref()
    }

    /// The site of an adapter at a projection.
    pub(crate) fn site(
        &self,
        adapter: AdapterId,
        projection: ProjectionId,
    ) -> Result<Option<Site>, BackendError> {
        Ok(self.resident(adapter)?.sites.get(&projection).copied())
    }

    /// Whether an adapter is resident.
    pub(crate) fn contains(&self, adapter: AdapterId) -> Result<(), BackendError> {
        self.resident(adapter).map(|_| ())
    }

    /// The first adapter that attaches to a projection.
    pub(crate) fn adapted(&self, projection: ProjectionId) -> Option<AdapterId> {
        let adapters = self.adapters.iter().filter(|(_, held)| held.sites.contains_key(&projection));
        adapters.map(|(adapter, _)| *adapter).min_by_key(|adapter| adapter.0)
    }

    fn resident(&self, adapter: AdapterId) -> Result<&ResidentAdapter, BackendError> {
        self.adapters.get(&adapter).ok_or_else(|| error::unknown("adapter", adapter.0.into()))
    }

    /// Makes an adapter resident whose sites have been checked.
    pub(crate) fn create(&mut self, gpu: &Gpu, adapter: &Adapter) -> Result<AdapterId, BackendError> {
        let mut units = 0;
        let mut placed: Vec<(&LoraSite, [u64; 2])> = Vec::new();
        for site in &adapter.sites {
            let [a, b] = factor_units(site);
            placed.push((site, [units, units + a]));
            units += a + b;
        }
        self.reserve(gpu, &adapter.name, units)?;
        let full = || error::no_room(&adapter.name, units * UNIT, "the adapters' buffer is fragmented");
        let extent = self.extents.take(units).ok_or_else(full)?;
        match self.upload(gpu, &placed, extent) {
            Ok(sites) => {
                let id = AdapterId(self.created);
                self.created += 1;
                self.adapters.insert(id, ResidentAdapter { sites, extent });
                Ok(id)
            }
            Err(e) => {
                self.extents.give(extent);
                Err(e)
            }
        }
    }

    pub(crate) fn drop_adapter(&mut self, adapter: AdapterId) -> Result<(), BackendError> {
        let found = self.adapters.remove(&adapter);
        let resident = found.ok_or_else(|| error::unknown("adapter", adapter.0.into()))?;
        self.extents.give(resident.extent);
        Ok(())
    }

    /// Makes room for `units` in one piece, in a larger copy of the buffer if need be.
    fn reserve(&mut self, gpu: &Gpu, name: &str, units: u64) -> Result<(), BackendError> {
        let end = self.extents.end_for(units);
        if end <= self.extents.end() {
            return Ok(());
        }
        let larger = grown(gpu, "adapters", self.buffer.as_ref(), end * UNIT, FIRST_BYTES)
            .map_err(|e| error::of(name, e))?;
        self.extents.grow(larger.size() / UNIT);
        self.buffer = Some(larger);
        Ok(())
    }

    fn upload(
        &self,
        gpu: &Gpu,
        placed: &[(&LoraSite, [u64; 2])],
        extent: Extent,
    ) -> Result<HashMap<ProjectionId, Site>, BackendError> {
        let mut sites = HashMap::new();
        let mut uploader = Uploader::new(gpu);
        for (site, units) in placed {
            let [a_unit, b_unit] = units.map(|at| extent.start + at);
            if let Some(buffer) = self.buffer.as_ref().filter(|_| rank(site) > 0) {
                let a = codes(&site.a, site.a.data());
                uploader.write(site.a.name(), buffer, a_unit * UNIT, &a)?;
                let b = widen_rows(site.b.data(), site.b.row_bytes(), b_row_bytes(site));
                uploader.write(site.b.name(), buffer, b_unit * UNIT, &b)?;
            }
            // Units are below 2²⁷ and words below 2²⁹: a binding is at most 2 GiB.
            let resident = Site {
                rank: word(rank(site)),
                scale: site.scale,
                a_dtype: site.a.dtype(),
                a_at: word(a_unit),
                b_dtype: site.b.dtype(),
                b_at: word(b_unit * UNIT / 4),
            };
            sites.insert(site.projection, resident);
        }
        uploader.finish("adapters")?;
        Ok(sites)
    }
}

/// The rank that kernels see: factors without elements add nothing, whatever their rank.
fn rank(site: &LoraSite) -> usize {
    if site.a.cols() == 0 || site.b.rows() == 0 { 0 } else { site.rank() }
}

/// Bytes of a row of B: whole u32, so that an odd rank in f16 takes half a word more.
fn b_row_bytes(site: &LoraSite) -> usize {
    site.b.row_bytes().next_multiple_of(size_of::<u32>())
}

/// Units of A and of B.
fn factor_units(site: &LoraSite) -> [u64; 2] {
    if rank(site) == 0 {
        return [0, 0];
    }
    let a = RowLayout::of(site.a.dtype(), site.a.cols()).units * site.rank();
    let b = (site.b.rows() * b_row_bytes(site)).div_ceil(UNIT_BYTES);
    [a as u64, b as u64]
}

#[cfg(test)]
mod tests {
    use interleaf_contract::{Bytes, Matrix};

    use super::*;

    #[test]
    fn factors_are_exact_to_the_rank() {
        let f16 = |rows: usize, cols: usize| {
            Matrix::new("f", Dtype::F16, rows, cols, Bytes::from(vec![0; rows * cols * 2])).unwrap()
        };
        let site = LoraSite { projection: ProjectionId(0), scale: 1.0, a: f16(3, 64), b: f16(10, 3) };
        assert_eq!(b_row_bytes(&site), 8);
        assert_eq!(factor_units(&site), [3 * 8, 5]);
        let none = LoraSite { projection: ProjectionId(0), scale: 1.0, a: f16(0, 64), b: f16(10, 0) };
        assert_eq!(factor_units(&none), [0, 0]);
        let empty = LoraSite { projection: ProjectionId(0), scale: 1.0, a: f16(9, 0), b: f16(10, 9) };
        assert_eq!((rank(&empty), factor_units(&empty)), (0, [0, 0]));
    }
}
