//! Every reader of `probes` against the guest's own `/proc`, read by the agent, in real guests.
//!
//! Each test has a fresh copy of the ready guest with a crowd of processes in it. A paused guest's agent cannot answer,
//! so each comparison is a sandwich: the agent reads, the guest is paused and its memory is read, the agent reads again.
//! Where both readings of the agent agree, memory must agree with them; what was compared is counted, and too little
//! is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod containers;
mod crowded;
mod dump;
mod exec;
mod files;
mod fs;
mod ground;
mod high;
mod hostile;
mod ledger;
mod locking;
mod log;
mod maps;
mod mm;
mod net;
mod nft;
mod process;
mod route;
mod runq;
mod skb;
mod stacks;
mod tasks;
mod text;
mod traffic;
mod types;

/// The same tests on each kernel: `on_kernels!(all_tasks, ..)` makes `default::all_tasks`, `v6_1::all_tasks`, ..
macro_rules! on_kernels {
    ($($test:ident = $path:path),* $(,)?) => {
        mod default {
            $(#[test] fn $test() { $path("default"); })*
        }
        mod v6_1 {
            $(#[test] fn $test() { $path("6.1"); })*
        }
        mod v6_12 {
            $(#[test] fn $test() { $path("6.12"); })*
        }
    };
}

on_kernels!(
    tasks = super::tasks::are_those_of_proc,
    maps = super::maps::are_those_of_proc,
    mm_fields = super::mm::fields,
    mm_break = super::mm::the_break_moves,
    mm_pages = super::mm::pages,
    kernel_addresses = super::mm::kernel_addresses,
    log = super::log::records,
    modules_and_symbols = super::log::modules_and_symbols,
    types = super::types::are_those_of_pahole,
    containers = super::containers::are_sound,
    files = super::files::are_those_of_proc,
    net = super::net::are_those_of_proc,
    stacks = super::stacks::are_those_of_proc,
    run_queues = super::runq::are_those_of_proc,
    code = super::text::is_what_objdump_says,
    paths_and_inodes = super::fs::are_those_of_stat,
    programs = super::exec::are_those_of_their_files,
    nftables = super::nft::are_those_of_nft,
    routes = super::route::are_those_of_ip,
    locks = super::locking::are_held_by_whom_proc_says,
    processes = super::process::are_those_of_proc,
);

#[test]
fn busy_and_paused() {
    crowded::paused("default");
}

#[test]
fn busy_and_running() {
    crowded::running("default");
}

#[test]
fn a_dump_has_the_same() {
    dump::has_the_same("default");
}

#[test]
fn ram_above_4_gib() {
    high::ram_above_4_gib();
}

#[test]
fn every_lie_is_survived() {
    hostile::every_lie_is_survived();
}

#[test]
fn frames_go_both_ways() {
    traffic::both_ways("default");
}

#[test]
fn namespaces_and_rules() {
    traffic::namespaces("default");
}

#[test]
fn packet_types() {
    traffic::packet_types("default");
}

#[test]
fn functions_of_an_skb() {
    skb::functions();
}

#[test]
fn paths_over_virtio_net() {
    skb::over_virtio_net();
}

#[test]
fn paths_with_netfilter() {
    skb::with_netfilter();
}

#[test]
fn paths_over_lo_and_veth() {
    skb::over_lo_and_veth();
}

#[test]
fn paths_through_a_router() {
    skb::through_a_router();
}

#[test]
fn the_function_tracer_agrees() {
    skb::the_function_tracer_agrees();
}
