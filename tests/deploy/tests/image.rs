//! The image's last stage has the C and C++ libraries, OpenSSL and nothing else: what the programs link has to be among
//! them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

use abide_test_cluster::beside_the_test;

/// Those of `distroless/cc`, by the names before `.so`.
const IN_THE_IMAGE: [&str; 12] = [
    "linux-vdso",
    "ld-linux-x86-64",
    "ld-linux-aarch64",
    "libc",
    "libm",
    "libdl",
    "libpthread",
    "librt",
    "libgcc_s",
    "libstdc++",
    // Of the image `base`, on which `cc` is built.
    "libssl",
    "libcrypto",
];

#[test]
fn programs_link_only_what_the_image_has() {
    for program in ["abide-server", "abidectl"] {
        let output = Command::new("ldd")
            .arg(beside_the_test(program))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut count = 0;
        for line in text.lines() {
            let path = line.split_whitespace().next().unwrap();
            let name = path.rsplit('/').next().unwrap();
            let library = name.split(".so").next().unwrap();
            assert!(
                IN_THE_IMAGE.contains(&library),
                "{program} links {name}:\n{text}"
            );
            count += 1;
        }
        assert!(count > 3, "ldd says little of {program}:\n{text}");
    }
}
