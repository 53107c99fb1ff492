package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/doctor"
)

// terminal is a pair of a pseudo terminal (pty(7)): what a program writes to, and
// what reads off all of that once the program's end is closed.
func terminal(t *testing.T) (program *os.File, shown func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("this host has no pseudo terminals: %v", err)
	}
	var locked, number int32
	for request, value := range map[uintptr]*int32{syscall.TIOCSPTLCK: &locked, syscall.TIOCGPTN: &number} {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), request, uintptr(unsafe.Pointer(value)))
		if errno != 0 {
			t.Fatal(errno)
		}
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := make(chan string)
	go func() {
		raw, _ := io.ReadAll(master) // ends with EIO when the other side is closed
		text <- strings.ReplaceAll(string(raw), "\r\n", "\n")
	}()
	return program, func() string {
		_ = program.Close()
		defer func() { _ = master.Close() }()
		return <-text
	}
}

// onTerminal runs a command there.
func onTerminal(t *testing.T, args ...string) string {
	t.Helper()
	program, shown := terminal(t)
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(program)
	if err := root.Execute(); err != nil {
		t.Errorf("%v: %v", args, err)
	}
	return shown()
}

func TestColoursOnATerminal(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	unready := someStatus()
	unready.Ready, unready.Reasons = false, []string{"lease: none yet"}
	unready.Conflicts = map[string]string{"link flannel.1": "taken"}
	well := daemon(t, map[string]any{"/v1/status": someStatus(), "/v1/peers": somePeers()})
	ill := daemon(t, map[string]any{"/v1/status": unready})
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"ready":     {[]string{"status", "--socket", well}, []string{"Ready    \x1b[32myes\x1b[0m\n"}},
		"not ready": {[]string{"status", "--socket", ill}, []string{"\x1b[31mno\x1b[0m\n", "\x1b[31mConflict\x1b[0m "}},
		"peers": {[]string{"peers", "--socket", well}, []string{
			"  \x1b[32mok\x1b[0m\n", "\x1b[31moverlay-down for ", "\x1b[31mleft out\x1b[0m: ",
		}},
	} {
		have := onTerminal(t, c.args...)
		for _, want := range c.want {
			if !strings.Contains(have, want) {
				t.Errorf("%s: no %q in\n%q", name, want, have)
			}
		}
		// Without the colours it is what a pipe gets.
		bare, err := weftctl(c.args...)
		if err != nil || strings.Contains(bare, "\x1b") || spaced(uncoloured(have)) != spaced(bare) {
			t.Errorf("%s: a pipe gets, %v,\n%s\nand a terminal, but for colours,\n%s", name, err, bare, uncoloured(have))
		}
		for variable, value := range map[string]string{"NO_COLOR": "1", "TERM": "dumb"} {
			before := os.Getenv(variable)
			t.Setenv(variable, value)
			if have := onTerminal(t, c.args...); strings.Contains(have, "\x1b") {
				t.Errorf("%s, %s=%s: colours in\n%q", name, variable, value, have)
			}
			t.Setenv(variable, before)
		}
		if have := onTerminal(t, append(c.args, "-o", "json")...); strings.Contains(have, "\x1b") {
			t.Errorf("%s as JSON: colours in\n%q", name, have)
		}
	}
}

func uncoloured(text string) string {
	for _, c := range []colour{green, yellow, red, plain} {
		text = strings.ReplaceAll(text, string(c), "")
	}
	return text
}

// spaced leaves out how old things are: time goes on between two calls.
func spaced(text string) string {
	var out []string
	for _, w := range strings.Fields(text) {
		if !strings.HasSuffix(w, "s") && !strings.HasSuffix(w, "m") {
			out = append(out, w)
		}
	}
	return strings.Join(out, " ")
}

func TestDoctorsColours(t *testing.T) {
	var out bytes.Buffer
	results := []doctor.Result{
		{Check: "mtu", Level: doctor.OK},
		{Check: "uplink", Level: doctor.Fail, Findings: []doctor.Finding{{Level: doctor.Fail, Cause: "FAIL it does", Mend: "ok"}}},
		{Check: "clock", Level: doctor.Warn, Findings: []doctor.Finding{{Level: doctor.Warn, Cause: "skew"}}},
	}
	if err := printDoctor(&out, results, true); err != nil {
		t.Fatal(err)
	}
	have := string(paint(out.Bytes(), doctorColours()))
	for _, want := range []string{"\x1b[32mok\x1b[0m ", "\x1b[31mFAIL\x1b[0m  uplink", "\x1b[33mWARN\x1b[0m  clock"} {
		if !strings.Contains(have, want) {
			t.Errorf("no %q in\n%q", want, have)
		}
	}
	if strings.Count(have, string(plain)) != 3 {
		t.Errorf("more is coloured than the three levels:\n%q", have)
	}
}

func TestStatusColours(t *testing.T) {
	status := network.Status{Store: network.StoreStatus{Away: "no leader", AwaySince: now, Refused: "VNI 7"}}
	var out bytes.Buffer
	if err := printStatus(&out, status, now); err != nil {
		t.Fatal(err)
	}
	have := string(paint(out.Bytes(), statusColours()))
	for _, want := range []string{
		"\x1b[31mno\x1b[0m\n", "\x1b[31maway for 0s: no leader\x1b[0m\n", "\x1b[31mRefused\x1b[0m ",
	} {
		if !strings.Contains(have, want) {
			t.Errorf("no %q in\n%q", want, have)
		}
	}
}
