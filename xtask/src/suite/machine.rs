//! What the tests need of the machine. What is missing is named once, at the beginning: the tests
//! that need it fail later with less to say.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;

use super::tally::Tally;

type Need = fn() -> Result<()>;

/// Checks every need and counts it like a test.
pub fn check(tally: &mut Tally) {
    eprintln!("=== machine");
    let needs: [(&str, Need); 5] = [
        ("root", root),
        ("network namespaces", namespaces),
        ("AF_XDP", af_xdp),
        ("BPF", bpf),
        ("programs", programs),
    ];
    for (name, need) in needs {
        match need() {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                println!("machine: {name}: {error:#}");
                tally.failed += 1;
            }
        }
    }
}

fn root() -> Result<()> {
    ensure!(geteuid().is_root(), "the tests make namespaces and load BPF programs: run as root");
    Ok(())
}

fn namespaces() -> Result<()> {
    let done = |arguments: &[&str]| crate::shell::run("ip", arguments.iter().copied());
    // Left from an interrupted run.
    let _ = done(&["netns", "delete", "rl-machine"]);
    done(&["netns", "add", "rl-machine"]).context("needs CAP_SYS_ADMIN and CONFIG_NET_NS")?;
    let link = ["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"];
    let made = done(&[&["-n", "rl-machine"][..], &link[..]].concat());
    done(&["netns", "delete", "rl-machine"])?;
    made.map(drop).context("needs CAP_NET_ADMIN and CONFIG_VETH")
}

fn af_xdp() -> Result<()> {
    let protocols = fs::read_to_string("/proc/net/protocols")?;
    let known = protocols.lines().any(|line| line.starts_with("XDP "));
    ensure!(known, "this kernel has no AF_XDP sockets: it needs CONFIG_XDP_SOCKETS");
    Ok(())
}

fn bpf() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.context("no CapEff")?.trim(), 16)?;
    // capabilities(7), linux/capability.h
    for (number, name) in [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (39, "CAP_BPF")] {
        ensure!(effective >> number & 1 == 1, "{name} is missing: XDP programs need it");
    }
    Ok(())
}

fn programs() -> Result<()> {
    for program in ["ip", "ethtool", "nft", "nginx", "curl", "openssl"] {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("{program}: run ./scripts/setup"))?.wait()?;
    }
    Ok(())
}
