package cniplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
	"github.com/weftnet/weft/pkg/subnetenv"
)

// Codes of our own; those up to 99 are the specification's.
const (
	codeKernel uint = 100 + iota
	codeStore
	codeExhausted
	codeTaken
	codeSubnetFile
	codeDelegate
	codeDiffers
)

func readEnv(path string) (subnetenv.Env, error) {
	env, err := subnetenv.Read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return env, types.NewError(types.ErrTryAgainLater, err.Error(),
			"weftd has not written it yet; see systemctl status weftd")
	case err != nil:
		return env, types.NewError(codeSubnetFile, err.Error(), "see systemctl status weftd")
	}
	return env, nil
}

func explainStore(err error) error {
	if err == nil || errors.As(err, new(*types.Error)) {
		return err
	}
	var exhausted *hostlocal.ExhaustedError
	var taken *hostlocal.TakenError
	var outside *hostlocal.OutsideError
	switch {
	case errors.As(err, &exhausted):
		return types.NewError(codeExhausted, err.Error(),
			"run fewer pods on this node or give nodes larger subnets (SubnetLen); "+
				"a file whose container is gone may be removed")
	case errors.As(err, &taken):
		return types.NewError(codeTaken, err.Error(), "ask for another address, or delete that pod first")
	case errors.As(err, &outside):
		return invalid(err.Error(), "ask for an address of the node's own subnet, or for none")
	}
	return types.NewError(codeStore, err.Error(),
		"is the file system of the address store full, read-only or not ours?")
}

func explainRecord(err error) error {
	if errors.As(err, new(*types.Error)) {
		return err
	}
	return types.NewError(codeStore, err.Error(), "is the file system of stateDir full, read-only or not ours?")
}

func explainSaved(err error) error {
	return types.NewError(codeStore, err.Error(), "is the file system of dataDir full, read-only or not ours?")
}

// explainAbsent names the ways out where a delegate is not installed; foreign is
// why it is needed.
func explainAbsent(err error, foreign string) error {
	var absent *absentError
	if !errors.As(err, &absent) {
		return err
	}
	next := "install it there (github.com/containernetworking/plugins has the usual ones)"
	if foreign != "" {
		next += ", or leave out what weft does not do itself: " + foreign
	}
	return types.NewError(codeDelegate, err.Error(), next)
}

// alsoUndo adds to an error what could not be undone after it.
func alsoUndo(err, undo error) error {
	if undo == nil {
		return err
	}
	var e *types.Error
	if !errors.As(err, &e) {
		return errors.Join(err, fmt.Errorf("undo: %w", undo))
	}
	return types.NewError(e.Code, e.Msg, strings.TrimPrefix(e.Details+"; ", "; ")+
		"not undone, DEL will try again: "+undo.Error())
}

// fail prints an error as the specification wants it.
func fail(w io.Writer, version string, err error) int {
	var e *types.Error
	if !errors.As(err, &e) {
		e = types.NewError(types.ErrInternal, err.Error(), "")
	}
	if !slices.Contains(supported(), version) {
		version = specVersion
	}
	b, err := json.Marshal(struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{version, e})
	if err == nil {
		_, _ = w.Write(append(b, '\n'))
	}
	return 1
}

// refused is what the kernel did not do.
func refused(tried string, err error) error {
	next := "see the kernel's log (dmesg)"
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		next = "weft needs the capability NET_ADMIN in the host's network namespace (run the runtime as root)"
	case errors.Is(err, unix.EOPNOTSUPP):
		next = "the kernel lacks a module: veth, and bridge for bridge mode"
	}
	return types.NewError(codeKernel, tried+": "+err.Error(), next)
}

// unavailable turns what an ADD would fail with now into STATUS's answer. 51
// (nothing works for pods that are there) is for weftd's readiness to tell.
func unavailable(err error) error {
	var e *types.Error
	if !errors.As(err, &e) {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return types.NewError(types.ErrPluginNotAvailable, e.Msg, e.Details)
}
