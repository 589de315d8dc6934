//! Job files: whatever may stand in one, those of the examples, and towers of brackets.

use std::fs;
use std::path::{Path, PathBuf};

pub(super) const JOB: &str = r#"name = "word-count"
scheduler = "batch"
priority = 50
namespace = "default"
same_machine = true

[group.map]
after = ["split"]
count = 8
command = ["/bin/sh", "-c", "true"]
env = { LC_ALL = "C" }
resources = { cpu = "500m", memory = "64MiB", disk = "100MiB" }
constraints = ['attr.kernel >= "5.10"', 'attr.rack in ["r1", "r2"]']
retry = { attempts = 3, delay = "2s" }
restart = { attempts = 2, delay = "1s", within = "5m" }
kill_timeout = "10s"
lost_after = "60s"

[group.split]
command = ["true"]
resources = { cpu = "1", memory = "1GiB" }
"#;

pub(super) const JSON: &str = r#"{"name": "w", "scheduler": "service", "runs": "forever", "group": {"web": {"count": 2, "command": ["/bin/sleep", "1e3"], "resources": {"cpu": 1.5, "memory": "1GiB", "licences": 2}, "constraints": ["attr.disk == \"ssd\""]}}}"#;

/// Every key that a job file may have and this version takes.
pub(super) const WHOLE: &str = r#"name = "whole"
scheduler = "team-a"
priority = 99
namespace = "default"
runs = "to-completion"
options = { policy = "spread", weights = { cpu = 2, gang = true } }

[group.first]
command = ["true"]
resources = { cpu = "250m", memory = "1MiB" }

[group.main]
after = ["first"]
count = 16
min = 4
driver = "exec"
command = ["/bin/sh", "-c", "echo $PLENUM_PORT_HTTP"]
env = { LC_ALL = "C" }
constraints = ['attr.os == "linux"', 'attr.disk != "tape"']
affinities = [{ rule = 'attr.zone == "a"', weight = 100 }, { rule = 'attr.age > 3', weight = -1 }]
spread = [{ by = "attr.rack", at_most = 2 }]
per_machine = 3
single_instance = true
retry = { attempts = 0, delay = "1m30s" }
restart = { attempts = 5, delay = "250ms", within = "1h" }
kill_timeout = "30s"
lost_after = "never"

[group.main.resources]
cpu = 2.5
memory = 1073741824
disk = "2GB"
gpu = "500m"
licences = 1
ports = { http = 0, admin = 8080 }
"#;

/// What is known and refused, and how editors find the schema: each is read to its refusal.
const REFUSED: [&str; 7] = [
    r#"{"$schema": "https://example.org/job-file.schema.json", "name": "a", "scheduler": "mapreduce", "elastic": {"max": 9}, "group": {"g": {"command": ["a"], "resources": {"cpu": 1, "memory": "1MiB"}}}}"#,
    "name = \"a\"\nscheduler = \"cron\"\nruns = \"recurring\"\nschedule = { cron = \"0 4 * * *\" }\n[group.g]\ncommand = [\"a\"]\nresources = { cpu = 1, memory = 1048576 }\n",
    "name = \"a\"\nscheduler = \"service\"\nupdate = { parallel = 1 }\n[group.g]\ncommand = [\"a\"]\nresources = { cpu = 1, memory = 1048576 }\n",
    "name = \"a\"\nscheduler = \"service\"\n[group.g]\ncheck = { http = \"/\" }\ncommand = [\"a\"]\nresources = { cpu = 1, memory = 1048576 }\n",
    "name = \"a\"\nscheduler = \"batch\"\n[group.g]\ntopology = \"rack\"\ncommand = [\"a\"]\nresources = { cpu = 1, memory = 1048576 }\n",
    "name = \"a\"\nscheduler = \"batch\"\n[group.g]\ndriver = \"oci\"\nimage = \"a:1\"\ncommand = [\"a\"]\nresources = { cpu = 1, memory = 1048576 }\n",
    "name = \"a\"\nscheduler = \"batch\"\nsame_machine = true\n[group.g]\nspread = [{ by = \"attr.rack\", at_most = 1 }]\ncommand = [\"a\"]\nresources = { cpu = 1, memory = 1048576 }\n",
];

/// All of them.
pub(super) fn all() -> Vec<Vec<u8>> {
    let deep = ["[".repeat(3000), "{\"a\":".repeat(1500), format!("a = {}", "[".repeat(3000)), "a.".repeat(1500)];
    let texts = [JOB, JSON].map(str::to_owned).into_iter().chain(deep).chain([WHOLE.to_owned()]);
    let texts = texts.chain(REFUSED.map(str::to_owned)).map(String::into_bytes);
    texts.chain(of_the_examples()).collect()
}

/// As users are shown them.
fn of_the_examples() -> Vec<Vec<u8>> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let within = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("the project has examples");
        entries.map(|entry| entry.expect("a folder can be read").path()).collect()
    };
    let mut files = within(&examples);
    let folders: Vec<PathBuf> = files.iter().filter(|path| path.is_dir()).cloned().collect();
    files.extend(folders.iter().flat_map(|folder| within(folder)));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files.iter().map(|path| fs::read(path).expect("an example can be read")).collect()
}
