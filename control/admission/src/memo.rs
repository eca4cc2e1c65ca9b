//! What was made of a resource's objects, kept until one of them changes.

use std::sync::Arc;

use parking_lot::Mutex;

/// `R` names the state of the objects: a revision, or one for each resource.
pub struct Memo<R, T: ?Sized>(Mutex<Option<(R, Arc<T>)>>);

impl<R, T: ?Sized> Default for Memo<R, T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<R: PartialEq, T: ?Sized> Memo<R, T> {
    /// What was made at the revision; made now if nothing was. Others wait meanwhile, and have it, too.
    pub fn at(&self, revision: R, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        let mut held = self.0.lock();
        if let Some((of, made)) = &*held
            && *of == revision
        {
            return made.clone();
        }
        let made = make();
        *held = Some((revision, made.clone()));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_made_once_for_each_revision() {
        let memo = Memo::default();
        assert_eq!(*memo.at(1, || Arc::new("first")), "first");
        assert_eq!(*memo.at(1, || Arc::new("second")), "first");
        assert_eq!(*memo.at(2, || Arc::new("second")), "second");
    }
}
