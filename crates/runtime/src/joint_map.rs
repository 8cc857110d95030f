//! The map over all layers that an adapter's calibration has: read from the store whenever it is needed, by whoever decodes chunks
//! at rest or translates the base's pages, and known by its contents.

use std::hash::{DefaultHasher, Hash, Hasher};

use interleaf_kv::AdapterId;
use interleaf_model::{Digest, JointCalibration, ModelError};

use crate::{Engine, EngineError};

/// What tells one map from another, as long as this process runs.
pub fn fingerprint(joint: &JointCalibration) -> u64 {
    let mut hasher = DefaultHasher::new();
    for values in [&joint.down, &joint.up, &joint.scales, &joint.residual.rows] {
        bytemuck::cast_slice::<f32, u8>(values).hash(&mut hasher);
    }
    hasher.finish()
}

/// Why there is no map.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error("its calibration is not in the store any more")]
    Missing,
    #[error("its calibration was made anew since")]
    Another,
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Engine {
    /// What somebody makes of an adapter's map. Once that cannot be had any more one warning says so, and it is not looked for
    /// again: what was done with it cannot be undone with another.
    pub(crate) fn with_joint_map<T>(
        &mut self,
        adapter: AdapterId,
        make: impl FnOnce(&Self, JointCalibration) -> Result<T, ModelError>,
    ) -> Result<Option<T>, EngineError> {
        let Some((digest, expected)) = self.calibrated.joint_of(adapter) else { return Ok(None) };
        let read = self.read_joint_map(digest, expected);
        match read.and_then(|joint| Ok(make(self, joint)?)) {
            Ok(made) => Ok(Some(made)),
            Err(error) => {
                tracing::warn!(
                    adapter = %digest,
                    %error,
                    "an adapter's caches are neither put to rest nor translated any more, and computed again where they are"
                );
                self.calibrated.forget_joint(adapter);
                self.cache.set_translation(adapter, None)?;
                Ok(None)
            }
        }
    }

    /// The map in an adapter's calibration, which must be the one that was known first.
    fn read_joint_map(&self, digest: Digest, expected: u64) -> Result<JointCalibration, Unread> {
        let calibration = self.store.calibration(self.model.config(), self.model_digest(), digest);
        let joint = calibration.and_then(|calibration| calibration.joint).ok_or(Unread::Missing)?;
        if fingerprint(&joint) != expected {
            return Err(Unread::Another);
        }
        Ok(joint)
    }
}
