//! Asks for a list page by page, of which the first is as recent as any answer of the server.

use std::time::Duration;

use kube::Client;

use super::event::{Page, Place};
use crate::{
    path::with_parameter,
    request::{Call, RequestError},
};

/// Objects in one page.
const PAGE: &str = "500";

/// Pages of a list, that one that has no end is given up: twenty times as many objects as Kubernetes is made for.
const PAGES: usize = 10_000;

/// How long one page may take.
const LIST_DEADLINE: Duration = Duration::from_secs(40);

/// What is still to be asked for of a list.
pub(crate) struct Pages<'a> {
    path: &'a str,
    accept: &'static str,
    place: Place<'a>,
    paged: bool,
    asked: usize,
    /// How to ask for the next page, empty for the first; none: there is none.
    next: Option<String>,
}

impl<'a> Pages<'a> {
    /// Of the list at a path; `paged`: not as a whole.
    pub(crate) fn new(path: &'a str, accept: &'static str, place: Place<'a>, paged: bool) -> Self {
        Self { path, accept, place, paged, asked: 0, next: Some(String::new()) }
    }

    /// Asks for the next page; none after the last.
    pub(crate) async fn next(&mut self, client: &Client) -> Result<Option<Page>, RequestError> {
        let Some(next) = self.next.take() else { return Ok(None) };
        let mut path = self.path.to_owned();
        if self.paged {
            path = with_parameter(path, "limit", PAGE);
        }
        if !next.is_empty() {
            path = with_parameter(path, "continue", &next);
        }
        let answer = Call { accept: self.accept, ..Call::get(&path) }.send(client, LIST_DEADLINE).await?;
        let page = Page::read(&answer.text(), self.place).map_err(|error| RequestError::Decode(error.to_string()))?;
        self.asked += 1;
        if !page.next.is_empty() {
            if page.next == next || self.asked == PAGES {
                return Err(RequestError::Decode("the list has no end".to_owned()));
            }
            self.next = Some(page.next.clone());
        }
        Ok(Some(page))
    }
}
