/* Tries, as the most that a sandbox can be (its root), what no sandbox may. One line per attempt:
   its name, and the number of the error it met, or 0. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *name, long result)
{
    printf("%s %d\n", name, result < 0 ? errno : 0);
    fflush(stdout);
}

int main(void)
{
    char zeros[256];
    memset(zeros, 0, sizeof zeros);

    tell("mount", mount("none", "/mnt", "tmpfs", 0, ""));
    tell("bind_mount", mount("/", "/mnt", "", MS_BIND, ""));
    tell("remount_proc_sys", mount("", "/proc/sys", "", MS_REMOUNT | MS_BIND, ""));
    tell("remount_cgroup", mount("", "/sys/fs/cgroup", "", MS_REMOUNT | MS_BIND, ""));
    tell("umount", umount2("/proc/sys", MNT_DETACH));
    tell("pivot_root", syscall(SYS_pivot_root, "/", "/mnt"));
    tell("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    tell("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1));
    tell("move_mount", syscall(SYS_move_mount, AT_FDCWD, "/", AT_FDCWD, "/mnt", 0));
    tell("unshare_user", unshare(CLONE_NEWUSER));
    tell("unshare_mount", unshare(CLONE_NEWNS));
    tell("unshare_net", unshare(CLONE_NEWNET));
    tell("unshare_cgroup", unshare(CLONE_NEWCGROUP));
    tell("unshare_time", unshare(0x80));
    tell("clone_user", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
    tell("clone3", syscall(SYS_clone3, zeros, 88));
    tell("io_setup", syscall(SYS_io_setup, 1, zeros));
    tell("io_submit", syscall(SYS_io_submit, 0, 0, 0));
    tell("setns", setns(open("/proc/self/ns/uts", O_RDONLY), CLONE_NEWUTS));
    tell("bpf", syscall(SYS_bpf, 0, zeros, sizeof zeros));
    tell("perf_event_open", syscall(SYS_perf_event_open, zeros, 0, -1, -1, 0));
    tell("userfaultfd", syscall(SYS_userfaultfd, 1));
    tell("io_uring_setup", syscall(SYS_io_uring_setup, 1, zeros));
    tell("keyctl", syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, -3, 0));
    tell("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
    tell("request_key", syscall(SYS_request_key, "user", "x", 0, -3));
    tell("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, zeros, 0));
    tell("init_module", syscall(SYS_init_module, zeros, sizeof zeros, ""));
    tell("finit_module", syscall(SYS_finit_module, 0, "", 0));
    tell("delete_module", syscall(SYS_delete_module, "loop", 0));
    tell("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    tell("reboot", syscall(SYS_reboot, 0xfee1dead, 672274793, 0, 0));
    tell("swapon", syscall(SYS_swapon, "/etc/passwd", 0));
    tell("settimeofday", syscall(SYS_settimeofday, zeros, 0));
    tell("clock_settime", syscall(SYS_clock_settime, 0, zeros));
    tell("sethostname", syscall(SYS_sethostname, "x", 1));
    tell("syslog", syscall(SYS_syslog, 3, zeros, sizeof zeros));
    tell("acct", syscall(SYS_acct, "/etc/passwd"));
    tell("quotactl", syscall(SYS_quotactl, 0, "/", 0, zeros));
    tell("fanotify_init", syscall(SYS_fanotify_init, 0, 0));
    tell("kcmp", syscall(SYS_kcmp, 1, 1, 0, 0, 0));
    tell("move_pages", syscall(SYS_move_pages, 0, 0, 0, 0, 0, 0));
    tell("vmsplice", syscall(SYS_vmsplice, 1, zeros, 1, 0));
    tell("personality", personality(0x0400000 /* READ_IMPLIES_EXEC */));
    tell("socket_vsock", socket(40, SOCK_STREAM, 0));
    tell("socket_packet", socket(17, SOCK_RAW, 0));
    tell("socket_alg", socket(38, SOCK_SEQPACKET, 0));
    tell("socket_netfilter", socket(16, SOCK_RAW, 12));
    tell("socket_generic_netlink", socket(16, SOCK_RAW, 16));
    tell("socket_bluetooth", socket(31, SOCK_RAW, 0));
    tell("socket_raw", socket(2, SOCK_RAW, 255));
    tell("socketpair_tipc", socketpair(30, SOCK_STREAM, 0, (int[2]){0}));
    tell("mknod_block", mknod("/tmp/disk", S_IFBLK | 0600, makedev(7, 0)));
    tell("mknod_memory", mknod("/tmp/mem", S_IFCHR | 0600, makedev(1, 1)));
    /* These have to work. */
    tell("ok_unshare_files", unshare(CLONE_FILES));
    tell("ok_socket_inet6", socket(10, SOCK_STREAM, 0));
    tell("ok_socket_routes", socket(16, SOCK_RAW, 0));
    tell("ok_socket_ping", socket(2, SOCK_DGRAM, 1));
    tell("ok_memfd", syscall(SYS_memfd_create, "x", 0));
    tell("ok_fifo", mknod("/tmp/fifo", S_IFIFO | 0600, 0));
    return 0;
}
