//! Reviews, and bindings: kinds that are created and not stored. What they must hold is checked where they are answered.

use wharf_types::k8s::api::authentication::v1::{SelfSubjectReview, TokenReview};
use wharf_types::k8s::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use wharf_types::k8s::api::core::v1::Binding;

use crate::strategy::Strategy;

macro_rules! reviews {
    ($($strategy:ident of $object:ident)*) => { $(
        #[derive(Debug)]
        pub struct $strategy;

        impl Strategy for $strategy {
            type Object = $object;
        }
    )* };
}

reviews! {
    Bindings of Binding
    SelfSubjectReviews of SelfSubjectReview
    TokenReviews of TokenReview
    LocalSubjectAccessReviews of LocalSubjectAccessReview
    SelfSubjectAccessReviews of SelfSubjectAccessReview
    SelfSubjectRulesReviews of SelfSubjectRulesReview
    SubjectAccessReviews of SubjectAccessReview
}
