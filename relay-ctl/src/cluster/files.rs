//! Files that are made once: never over others, for their owner alone, and all of them or none.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Makes `directory` with its parents, unless it exists.
pub fn make_directory(directory: &Path) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| format!("{}: cannot be created: {error}", directory.display()))
}

/// Writes a file that does not exist yet.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => cannot_write(path, &error),
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a file is worth nothing, and would be in the way of the next attempt.
        let _ = fs::remove_file(path);
        cannot_write(path, &error)
    })
}

/// Reads a text of at most `limit` bytes.
pub fn read(path: &Path, limit: usize) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    match text.len() <= limit {
        true => Ok(text),
        false => Err(format!("{}: longer than {limit} bytes", path.display())),
    }
}

/// What is removed again unless all of it succeeds.
pub struct Batch {
    directory: PathBuf,
    is_new: bool,
    made: Vec<PathBuf>,
    is_kept: bool,
}

impl Batch {
    /// In `directory`, which is made, and where none of `names` may exist.
    pub fn begin(directory: &Path, names: &[&str]) -> Result<Batch, String> {
        let is_new = !directory.exists();
        make_directory(directory)?;
        let directory = directory.to_owned();
        let batch = Batch { directory, is_new, made: Vec::new(), is_kept: false };
        for path in names.iter().map(|name| batch.directory.join(name)) {
            // A link that leads nowhere is in the way, too.
            if path.symlink_metadata().is_ok() {
                return Err(exists(&path));
            }
        }
        Ok(batch)
    }

    /// Writes one file more.
    pub fn write(&mut self, name: &str, text: &str) -> Result<(), String> {
        let path = self.directory.join(name);
        write(&path, text)?;
        self.made.push(path);
        Ok(())
    }

    /// Everything is there, on the disk too.
    pub fn keep(mut self) -> Result<(), String> {
        let synced = fs::File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| cannot_write(&self.directory, &error))?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        for path in &self.made {
            let _ = fs::remove_file(path);
        }
        if self.is_new {
            // Fails if somebody else put something there, which then stays.
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

fn exists(path: &Path) -> String {
    format!(
        "{}: exists, and is not overwritten: choose another directory, or remove it if no node \
         needs it",
        path.display()
    )
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("{}: cannot be written: {error}", path.display())
}
