package cniplugin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// disturbance is what happens to the binary at one of its system calls that
// change something: it is killed before it, or the call fails.
type disturbance struct {
	at   int           // the how manieth such call; 0: none
	fail syscall.Errno // 0: killed
}

// outcome is how it ended.
type outcome struct {
	calls  int // that change something
	status int // -1: killed
	stdout []byte
	// lost: the call that failed was that of the result.
	lost bool
}

// disturbed runs the real binary in the host's namespace, call by call.
func (n *node) disturbed(command string, p pod, d disturbance) outcome {
	n.t.Helper()
	conf, err := json.Marshal(n.conf)
	if err != nil {
		n.t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(built(n.t), "weft"))
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + p.id, "CNI_IFNAME=" + p.ifName, "CNI_NETNS=" + p.netns,
		"CNI_PATH=" + n.path, "GODEBUG=asyncpreemptoff=1", // no signals but ours
	}
	cmd.Stdin, cmd.Stdout = bytes.NewReader(conf), &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	var o outcome
	n.host.Do(func() {
		goruntime.LockOSThread() // ptrace is a thread's
		defer goruntime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			n.t.Fatal(err)
		}
		o = follow(n.t, cmd.Process.Pid, d)
		_ = cmd.Wait() // the copies of stdin and stdout; the process was waited for
	})
	o.stdout = out.Bytes()
	return o
}

// follow lets a traced process go from one system call to the next.
func follow(t testing.TB, pid int, d disturbance) (o outcome) {
	t.Helper()
	const options = syscall.PTRACE_O_TRACESYSGOOD | syscall.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	inside := map[int]bool{}  // between entry and exit, by thread
	refused := map[int]bool{} // its call is the one that fails
	started := map[int]bool{}
	for {
		var status syscall.WaitStatus
		tid, err := syscall.Wait4(-1, &status, syscall.WALL|syscall.WNOTHREAD, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("wait for the plugin: %v", err)
		}
		switch {
		case tid == pid && status.Exited():
			o.status = status.ExitStatus()
			return o
		case tid == pid && status.Signaled():
			o.status = -1
			return o
		case status.Exited() || status.Signaled():
			continue // a thread
		}
		if tid == pid && !started[pid] {
			if err := syscall.PtraceSetOptions(pid, options); err != nil {
				t.Fatal(err)
			}
		}
		signal := 0
		switch first := !started[tid]; {
		case first: // exec, or the stop that a new thread begins with
			started[tid] = true
		case status.StopSignal() == syscall.SIGTRAP|0x80:
			inside[tid] = !inside[tid]
			o.step(t, pid, tid, inside[tid], refused, d)
		case status.StopSignal() != syscall.SIGTRAP:
			signal = int(status.StopSignal())
		}
		// ESRCH: killed meanwhile.
		if err := syscall.PtraceSyscall(tid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
}

// step is one entry of, or exit from, a system call.
func (o *outcome) step(t testing.TB, pid, tid int, entry bool, refused map[int]bool, d disturbance) {
	t.Helper()
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tid, &regs); err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return
		}
		t.Fatal(err)
	}
	switch {
	case entry && changes(pid, regs):
		o.calls++
		if o.calls != d.at {
			return
		}
		if d.fail == 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			return
		}
		o.lost = regs.Orig_rax == syscall.SYS_WRITE && regs.Rdi == 1
		refused[tid] = true
		regs.Orig_rax = ^uint64(0) // no such call
	case !entry && refused[tid]:
		refused[tid] = false
		regs.Rax = -uint64(d.fail) //nolint:gosec // as the kernel gives errors
	default:
		return
	}
	if err := syscall.PtraceSetRegs(tid, &regs); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

// changes tells whether a call changes something that outlives the process. The Go
// runtime wakes itself by an eventfd, and ends if that fails.
func changes(pid int, regs syscall.PtraceRegs) bool {
	switch regs.Orig_rax {
	case syscall.SYS_WRITE:
		file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, regs.Rdi))
		return err != nil || file != "anon_inode:[eventfd]"
	case syscall.SYS_OPENAT:
		return regs.Rdx&(syscall.O_CREAT|syscall.O_TRUNC) != 0
	case syscall.SYS_SENDTO, syscall.SYS_SENDMSG, syscall.SYS_RENAMEAT, unix.SYS_RENAMEAT2,
		syscall.SYS_UNLINKAT, syscall.SYS_UNLINK, syscall.SYS_RENAME, syscall.SYS_MKDIRAT, syscall.SYS_LINKAT,
		syscall.SYS_FLOCK:
		return true
	}
	return false
}
