//! What a plan wants reported about the object that it is for.

use wharf_client::Recorder;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Normal(&'static str, String),
    Warning(&'static str, String),
}

impl Note {
    pub fn tell<K: kube::Resource<DynamicType = ()>>(&self, recorder: &Recorder, about: &K) {
        match self {
            Note::Normal(reason, message) => recorder.normal(about, reason, message.clone()),
            Note::Warning(reason, message) => recorder.warning(about, reason, message.clone()),
        }
    }
}
