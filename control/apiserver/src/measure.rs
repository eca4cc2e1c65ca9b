//! What metrics say a request was about: words of the resource table, never of the client.

use std::borrow::Cow;

use http::Response;
use http_body_util::BodyExt;
use wharf_registry::Table;

use crate::metrics::{Labels, Under};
use crate::query::Query;
use crate::reply::Body;
use crate::request::{Info, Target, Verb};

pub fn labels(table: &Table, info: &Info, query: &Query) -> Labels {
    let verb = Cow::Borrowed(verb(info));
    let Target::Resource(resource) = &info.target else { return Labels { verb, ..Labels::default() } };
    let Some(row) = table.find(&resource.group, &resource.version, &resource.resource) else {
        return Labels { verb, ..Labels::default() };
    };
    let subresource = resource
        .subresource
        .as_deref()
        .and_then(|name| row.subresources.iter().map(|subresource| subresource.name()).find(|known| *known == name));
    let scope = match (resource.named, row.namespaced() && resource.namespace.is_some()) {
        (true, _) => "resource",
        (false, true) => "namespace",
        (false, false) => "cluster",
    };
    let dry_run = info.verb.mutates() && !query.all("dryRun").is_empty();
    Labels {
        verb,
        group: row.gvr.group.clone(),
        version: row.gvr.version.clone(),
        resource: row.gvr.resource.clone(),
        subresource: Cow::Borrowed(subresource.unwrap_or_default()),
        scope: Cow::Borrowed(scope),
        dry_run: Cow::Borrowed(if dry_run { "All" } else { "" }),
    }
}

fn verb(info: &Info) -> &'static str {
    match info.verb {
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch => "PATCH",
        Verb::Delete => "DELETE",
        Verb::DeleteCollection => "DELETECOLLECTION",
        Verb::Other => "OTHER",
    }
}

/// Counts a stream as under way until its body is dropped.
pub fn while_it_lasts(response: Response<Body>, under: Under) -> Response<Body> {
    response.map(|body| {
        let counted = body.map_frame(move |frame| {
            let _ = &under;
            frame
        });
        counted.boxed_unsync()
    })
}
