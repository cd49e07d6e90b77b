//! The origin: nginx in the backend's namespace, with files of random bytes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::plan::{BACKEND_NS, BACKEND_PORT, ENDPOINT_HOST, Network, STATE_DIR, state_file};
use super::process::Process;
use crate::content;
use crate::shell::in_namespace;

/// Names and lengths in bytes of the files that it serves.
pub const FILES: [(&str, u64); 4] =
    [("1k.bin", 1 << 10), ("16m.bin", 16 << 20), ("64m.bin", 64 << 20), ("256m.bin", 256 << 20)];

/// Room that the files and the demo's uploads need.
const ROOM: u64 = 1 << 30;

/// The directory that it serves; uploads are in its `up`.
pub fn root() -> PathBuf {
    state_file("www")
}

/// Where bodies of uploads grow until they are complete.
pub fn upload_area() -> PathBuf {
    state_file("www/tmp")
}

/// Writes the files and the configuration, and starts the server.
pub fn start() -> Result<Process> {
    let free = rustix::fs::statvfs(STATE_DIR).map(|fs| fs.f_bavail * fs.f_frsize)?;
    if free < ROOM {
        bail!(
            "{STATE_DIR} has {} MB of room, the origin needs {}: \
             mount -o remount,size=2G /run",
            free >> 20,
            ROOM >> 20
        );
    }
    fs::create_dir_all(root().join("up"))?;
    fs::create_dir_all(upload_area())?;
    for (name, length) in FILES {
        write_random(&root().join(name), length)?;
    }
    let config = state_file("nginx.conf");
    fs::write(&config, self::config())?;
    let mut command = in_namespace(BACKEND_NS, "nginx");
    command.arg("-c").arg(&config).arg("-e").arg(state_file("nginx.log"));
    Process::spawn(&mut command, &state_file("nginx.log"))
        .context("the origin is nginx: run ./scripts/setup")
}

/// Writes `length` bytes that are different each time. (/dev/urandom itself is several times
/// slower.)
fn write_random(path: &Path, length: u64) -> Result<()> {
    const STEP: usize = 1 << 20;
    let mut seed = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let (mut file, mut buffer) = (File::create(path)?, vec![0; STEP]);
    for offset in (0..length).step_by(STEP) {
        content::fill(u64::from_le_bytes(seed), offset, &mut buffer);
        let rest = usize::try_from(length - offset)?.min(STEP);
        file.write_all(&buffer[..rest])?;
    }
    Ok(())
}

fn config() -> String {
    let (v4, v6) = (Network::Backend.v4(ENDPOINT_HOST), Network::Backend.v6(ENDPOINT_HOST));
    format!(
        "daemon off;
# Root, because the files are in root's state directory.
user root;
worker_processes 2;
pid {STATE_DIR}/nginx.pid;
error_log {STATE_DIR}/nginx.log;
events {{ worker_connections 4096; }}
http {{
    default_type application/octet-stream;
    access_log off;
    sendfile on;
    keepalive_timeout 600s;
    # Many more than one connection has in the demo.
    keepalive_requests 1000000;
    send_timeout 600s;
    client_body_timeout 600s;
    client_max_body_size 0;
    client_body_buffer_size 16k;
    client_body_temp_path {tmp};
    server {{
        listen {v4}:{BACKEND_PORT};
        listen [{v6}]:{BACKEND_PORT};
        root {root};
        # In bytes per second, as in /paced/64m.bin?rate=2m, and in steps so small that such a
        # download never pauses for long by itself.
        location /paced/ {{ alias {root}/; limit_rate $arg_rate; sendfile_max_chunk 16k; }}
        # Bodies grow in small steps, so that whoever watches a slow one sees its pauses.
        location /slow/ {{ alias {root}/up/; dav_methods PUT; client_body_buffer_size 2k; }}
        location /up/ {{ dav_methods PUT; }}
    }}
}}
",
        tmp = upload_area().display(),
        root = root().display(),
    )
}
