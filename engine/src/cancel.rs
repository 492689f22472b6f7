//! A request to stop: who asks sets it, what computes looks at it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::error::{EngineError, Result};

/// A request to stop. Clones share it; once made it stays.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    requested: Arc<AtomicBool>,
    /// Looks that are still answered with no.
    #[cfg(test)]
    patience: Option<Arc<std::sync::atomic::AtomicUsize>>,
}

impl Cancel {
    /// Asks to stop. A prefill in work ends within one block of tokens in one layer, a decode within one layer of
    /// one step; both with [`EngineError::Interrupted`].
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn requested(&self) -> bool {
        #[cfg(test)]
        if let Some(patience) = &self.patience
            && patience
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_err()
        {
            self.request();
        }
        self.requested.load(Ordering::Relaxed)
    }

    /// Stops the caller where a stop was asked for.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`] then.
    pub fn check(&self) -> Result<()> {
        if self.requested() { Err(EngineError::Interrupted) } else { Ok(()) }
    }

    /// Answers no `looks` times, then yes.
    #[cfg(test)]
    pub(crate) fn after(looks: usize) -> Self {
        Self { patience: Some(Arc::new(looks.into())), ..Self::default() }
    }
}
