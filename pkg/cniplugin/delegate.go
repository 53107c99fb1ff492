package cniplugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// absentError says that a delegate is not installed.
type absentError struct{ kind, path string }

func (e *absentError) Error() string {
	return fmt.Sprintf("delegate %q is in no directory of CNI_PATH (%s)", e.kind, or(e.path, "which is empty"))
}

// execute runs the delegate of a rendered configuration, as the specification
// wants it ("Plugin delegation"): with our own environment, the command and the
// configuration. It gives what the delegate prints. The delegate starts in the
// network namespace of the calling thread, which is the host's.
func execute(command string, req request, conf document, stderr io.Writer) ([]byte, error) {
	kind, _ := conf.text("type", "")
	path, err := findPlugin(kind, req.path)
	if err != nil {
		return nil, err
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration of delegate %s: %w", kind, err)
	}
	var out, said bytes.Buffer
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+req.containerID,
		"CNI_NETNS="+req.netns, "CNI_IFNAME="+req.ifName, "CNI_ARGS="+req.args, "CNI_PATH="+req.path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, io.MultiWriter(stderr, &said)
	if err := cmd.Run(); err != nil {
		return nil, delegateError(kind, err, out.Bytes(), said.String())
	}
	if command == "ADD" && !json.Valid(out.Bytes()) {
		return nil, types.NewError(codeDelegate, fmt.Sprintf("delegate %s: no result, but %.60q", kind, out.String()),
			"is "+path+" a CNI plugin?")
	}
	return out.Bytes(), nil
}

// delegateError tells a delegate's own error, or how it ended without one.
func delegateError(kind string, err error, out []byte, stderr string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return types.NewError(codeDelegate, "run delegate "+kind+": "+err.Error(), "")
	}
	var said types.Error
	if json.Unmarshal(out, &said) == nil && said.Msg != "" {
		return types.NewError(said.Code, "delegate "+kind+": "+said.Msg, said.Details)
	}
	const enough = 500
	stderr = strings.TrimSpace(stderr)
	return types.NewError(codeDelegate, fmt.Sprintf("delegate %s: %v", kind, err), stderr[max(0, len(stderr)-enough):])
}

// findPlugin looks for a plugin as a runtime does.
func findPlugin(kind, path string) (string, error) {
	if kind != filepath.Base(kind) || strings.HasPrefix(kind, ".") {
		return "", invalid(fmt.Sprintf("delegate.type %q is no name of a plugin", kind),
			"name a file of CNI_PATH, such as bridge")
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, kind)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", &absentError{kind, path}
}
