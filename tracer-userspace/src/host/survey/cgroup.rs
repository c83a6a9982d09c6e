//! The UID of the pod that a process belongs to, from its cgroup.

/// Length of a UID: 32 hexadecimal digits and four dashes.
const UID_LENGTH: usize = 36;

/// The pod UID in the text of `/proc/PID/cgroup`, with dashes. In all forms the path has a part with `pod` and the
/// UID behind it: `/kubepods/burstable/pod<uid>/<container>` (cgroupfs driver) and
/// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid with _>.slice/...` (systemd driver).
pub(super) fn pod_uid(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .flat_map(|path| path.split('/'))
        .find_map(uid_in)
}

fn uid_in(part: &str) -> Option<String> {
    part.match_indices("pod").find_map(|(at, found)| {
        let uid = part.get(at + found.len()..at + found.len() + UID_LENGTH)?.replace('_', "-");
        let rest = &part[at + found.len() + UID_LENGTH..];
        let is_uid = uid.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
        (is_uid && matches!(rest, "" | ".slice")).then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use super::pod_uid;

    const UID: &str = "0c7d1c5e-2f3d-4c8e-9a3f-0123456789ab";

    #[test]
    fn the_uid_is_found_in_every_form_of_the_path() {
        let systemd = UID.replace('-', "_");
        for text in [
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice/cri-containerd-ab.scope\n"
            ),
            format!("0::/kubepods.slice/kubepods-pod{systemd}.slice/cri-containerd-ab.scope"),
            format!("0::/kubepods/besteffort/pod{UID}/0123\n"),
            format!("12:cpuset:/\n11:memory:/kubepods/pod{UID}/0123\n0::/\n"),
            format!("0::/system.slice/docker.service/kubepods/burstable/pod{UID}\n"),
            format!(
                "1:name=systemd:/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{systemd}.slice/x\n"
            ),
        ] {
            assert_eq!(pod_uid(&text).as_deref(), Some(UID), "{text}");
        }
    }

    #[test]
    fn other_paths_have_no_uid() {
        for text in [
            "",
            "0::/\n",
            "0::/user.slice/user-1000.slice\n",
            "0::/machine.slice/libpod-0123456789abcdef0123456789abcdef0123.scope\n",
            "0::/kubepods/podé\n",
            "0::/kubepods/pod0123\n",
        ] {
            assert_eq!(pod_uid(text), None, "{text}");
        }
    }
}
