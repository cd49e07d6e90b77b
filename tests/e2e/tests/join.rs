//! What `relay-ctl cluster join` gets is what a node of the cluster takes. (Needs no lab.)

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use xtask::binaries::binaries;
use xtask::shell::output;

#[test]
fn a_witness_takes_the_certificate_that_it_joined_with() {
    let programs = binaries(None).unwrap();
    let place = std::env::temp_dir().join(format!("relay-e2e-join-{}", std::process::id()));
    let _ = fs::remove_dir_all(&place);
    let (trust, own) = (place.join("trust"), place.join("own"));
    let ctl = || {
        let mut command = Command::new(programs.join("relay-ctl"));
        command.arg("cluster");
        command
    };
    output(ctl().args(["init", "--directory"]).arg(&trust)).unwrap();
    let mut door = ctl();
    door.args(["token", "--node", "9", "--listen", "127.0.0.1:0", "--directory"]).arg(&trust);
    let mut door = door.stdout(Stdio::piped()).spawn().unwrap();
    let mut token = String::new();
    BufReader::new(door.stdout.take().unwrap()).read_line(&mut token).unwrap();
    let joined = output(ctl().args(["join", token.trim(), "--directory"]).arg(&own));
    if joined.is_err() {
        door.kill().unwrap();
    }
    assert!(door.wait().unwrap().success());
    // What it printed is the configuration, but for what it cannot know.
    let members: String = [(1, "relay"), (2, "relay"), (9, "witness")]
        .map(|(id, kind)| {
            let address = format!("127.0.0.{id}:7306");
            format!(
                "\n[[cluster.council.member]]\nid = {id}\naddress = \"{address}\"\nkind = \
                 \"{kind}\"\n"
            )
        })
        .concat();
    let text = joined.unwrap();
    let (control, votes) = (place.join("control.sock"), place.join("votes"));
    let text = text.replace("[node]\n", &format!("[node]\ncontrol = {control:?}\n"));
    let text = text + &format!("\ndirectory = {votes:?}\n{members}");
    let config = place.join("witness.toml");
    fs::write(&config, &text).unwrap();
    let mut check = Command::new(programs.join("relay-dataplane"));
    check.args(["--witness", "--check", "--config"]).arg(&config);
    let checked = check.output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}\n{text}");
    fs::remove_dir_all(&place).unwrap();
}
