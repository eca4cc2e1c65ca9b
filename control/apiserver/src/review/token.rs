//! Whose token is this?
//!
//! Source: `pkg/registry/authentication/tokenreview`.

use wharf_types::ApiError;
use wharf_types::k8s::api::authentication::v1::{TokenReview, TokenReviewStatus};

use super::{Asked, info};

impl Asked<'_> {
    pub(super) async fn token(&self, review: &mut TokenReview) -> Result<(), ApiError> {
        if review.spec.token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        let mut status = TokenReviewStatus::default();
        let audiences = review.spec.audiences.clone().unwrap_or_default();
        if let Some(tokens) = &self.server.tokens {
            match tokens.authenticate_token(&review.spec.token, &audiences).await {
                Ok(Some(known)) => {
                    status.authenticated = Some(true);
                    status.user = Some(info(&known.user));
                    status.audiences = Some(known.audiences).filter(|audiences| !audiences.is_empty());
                }
                Ok(None) => {}
                Err(error) => status.error = Some(error.0),
            }
        }
        review.status = Some(status);
        Ok(())
    }
}
