package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weft/pkg/commands"
)

const (
	maxOutput = 64 << 10 // of stdout: more is no data for peers
	maxReason = 300      // bytes of stderr that are told
	// closeWait: a program that left others behind may hold its pipes open.
	closeWait = time.Second
)

func errHung(limit time.Duration) error {
	return fmt.Errorf("it did not end in %s and was killed, with what it had started", limit)
}

// execute runs one program in a process group of its own. Of weftd's environment
// it gets PATH only: passwords may be in the rest.
func execute(ctx context.Context, c commands.Command) (string, error) {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env = append([]string{"PATH=" + path()}, c.Env...)
	cmd.Stdin = strings.NewReader(c.Stdin + "\n")
	stdout, stderr := &limited{max: maxOutput}, &limited{max: maxReason}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = closeWait
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrWaitDelay):
		err = nil // it ended well itself
	case err != nil && len(stderr.kept) > 0:
		err = fmt.Errorf("%w: %s", err, strings.Join(strings.Fields(string(stderr.kept)), " "))
	case err == nil && stdout.over:
		err = fmt.Errorf("it wrote more than %d KiB", maxOutput>>10)
	}
	return string(stdout.kept), err
}

func path() string {
	if p := os.Getenv("PATH"); p != "" {
		return p
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// limited keeps the first bytes, and takes all.
type limited struct {
	kept []byte
	max  int
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	fits := min(len(p), l.max-len(l.kept))
	l.over = l.over || fits < len(p)
	l.kept = append(l.kept, p[:fits]...)
	return len(p), nil
}
