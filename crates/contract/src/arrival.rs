//! Pages that come from elsewhere while a step runs: what is recorded of them is where they go, and whom to wait for.

use std::fmt::Debug;
use std::sync::Arc;

use crate::{Bytes, PageAddress};

/// Whoever brings pages of some layers.
pub trait ArrivingPages: Debug + Send + Sync {
    /// Where pages of a layer go, each in that layer.
    fn places(&self, layer: u32) -> Vec<PageAddress>;

    /// Waits for the pages of a layer, and takes them: in the order of the places, each as long as its place. One that does not come
    /// leaves its place as it is, and so does one that was taken before.
    fn wait(&self, layer: u32) -> Vec<Option<Bytes>>;
}

/// Pages that come while a step runs. Copies are the same pages.
#[derive(Debug, Clone)]
pub struct Arrival(pub Arc<dyn ArrivingPages>);

impl Arrival {
    /// Waits for the pages of a layer, and gives those that came to be put in their places.
    pub fn put<E>(
        &self,
        layer: u32,
        mut put: impl FnMut(PageAddress, Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let places = self.0.places(layer);
        for (place, page) in places.into_iter().zip(self.0.wait(layer)) {
            // What is not the page that was to come is none.
            if let Some(page) = page.filter(|page| page.len() == place.bytes().len()) {
                put(place, page)?;
            }
        }
        Ok(())
    }
}
