//! What nobody should send, sent to the built binary: each shape is a step that is named; while it lasts, and after it,
//! an ordinary pull on another connection is answered.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may")]

mod bodies;
mod crowds;
mod heads;
mod names;
mod scene;
mod slow;

use journeys::{Need, journey};
use scene::Scene;

#[test]
fn heads_that_are_too_long_or_mean_two_things() {
    journey("heads_that_are_too_long_or_mean_two_things", &[], |folder| heads::steps(Scene::set(folder, "")?));
}

#[test]
fn bodies_that_do_not_end() {
    let needs = [Need::Root, Need::Program("gzip")];
    journey("bodies_that_do_not_end", &needs, bodies::steps);
}

#[test]
fn names_that_lead_out_of_the_store() {
    journey("names_that_lead_out_of_the_store", &[], |folder| names::steps(folder, Scene::set(folder, "")?));
}

#[test]
fn clients_that_take_their_time() {
    journey("clients_that_take_their_time", &[], |folder| slow::steps(Scene::set(folder, "")?));
}

#[test]
fn ten_thousand_idle_connections() {
    journey("ten_thousand_idle_connections", &[], |folder| crowds::idle(Scene::set(folder, "")?));
}

#[test]
fn what_is_not_here_and_wrong_passwords_fill_nothing() {
    let name = "what_is_not_here_and_wrong_passwords_fill_nothing";
    journey(name, &[], |folder| {
        // With an upstream that nobody answers for: what it said is remembered, too.
        let upstream = "upstreams:\n  '127.0.0.1:1': { proxy: on-miss }\n";
        crowds::misses(Scene::set(folder, upstream)?)
    });
}
