// Package cniplugin attaches pods to the node's overlay: it is the CNI plugin
// weft, all in one process.
//
//	stdin, environment ─ parse ─▶ config, args ┐
//	subnet.env ─────────────────▶ Env          ├─ plan ─▶ attachment ─ kernel ─▶ veth, bridge, routes
//	hostlocal.Reserve ──────────▶ addresses    ┘               └──── result ─▶ stdout
//
// plan and result are pure; kernel is the only place that touches links. The
// host's end of a pod's veth pair is named by the attachment, so DEL finds it
// with nothing else left: no namespace, no subnet.env, no state of ours.
//
// A configuration in flannel's form names a delegate: a bridge with host-local
// is our own work, any other is run.
//
//	delegate, ipam ── render ─▶ document ─ inProcess ─▶ config, as above
//	subnet.env ──────▶                   └ foreign ───▶ saved, delegate ─▶ stdout
//
// It refuses to run other programs but such a delegate, to talk to the daemon,
// and to masquerade (weftd does).
package cniplugin

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weft/pkg/calls"
)

// Call is one execution of the plugin: what a process is given.
type Call struct {
	Getenv         func(string) string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Version        func() string // of this build, for who starts the plugin by hand
}

// specVersion is what results are made in before they are converted, and what
// we answer in when the version asked for can't be told.
const specVersion = "1.1.0"

// supported is the versions of CNI that we answer in, the oldest first.
func supported() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// Main serves one call and gives the exit status. The namespace of the calling
// thread is the host; the thread may change namespace on the way, and comes
// back.
func Main(c Call) int {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command := c.Getenv("CNI_COMMAND")
	if command == "" {
		_, _ = fmt.Fprintf(c.Stderr, "weft %s: a CNI plugin, for a container runtime to start. "+
			"It attaches pods to the overlay of weftd.\nCNI versions: %s\n", c.Version(), strings.Join(supported(), ", "))
		return 0
	}
	stdin, err := io.ReadAll(c.Stdin)
	if err != nil {
		return fail(c.Stdout, specVersion, types.NewError(types.ErrIOFailure, "read the configuration: "+err.Error(), ""))
	}
	var doc document
	errDecode := json.Unmarshal(stdin, &doc)
	version := doc.version()
	out, err := c.serve(command, version, doc, errDecode)
	if err == nil {
		_, err = c.Stdout.Write(out)
	}
	if err != nil {
		return fail(c.Stdout, version, err)
	}
	return 0
}

func (c Call) serve(command, version string, doc document, errDecode error) ([]byte, error) {
	if command == "VERSION" {
		return json.Marshal(struct {
			CNIVersion        string   `json:"cniVersion"`
			SupportedVersions []string `json:"supportedVersions"`
		}{version, supported()})
	}
	if !slices.Contains([]string{"ADD", "DEL", "CHECK", "GC", "STATUS"}, command) {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("CNI_COMMAND %q is not supported", command),
			"this version of weft speaks ADD, DEL, CHECK, GC, STATUS and VERSION")
	}
	if errDecode != nil {
		return nil, undecodable(errDecode)
	}
	conf, err := parseConfig(doc)
	if err != nil {
		return nil, err
	}
	if err := speaks(conf.version, command); err != nil {
		return nil, err
	}
	req := request{path: c.Getenv("CNI_PATH")}
	if command != "GC" && command != "STATUS" {
		if req, err = parseArgs(command, c.Getenv); err != nil {
			return nil, err
		}
	}
	started := time.Now()
	out, err := c.call(command, conf, req)
	// Without a directory nothing was ever attached; otherwise a pod does not
	// fail for a count's sake.
	_ = calls.Count(string(conf.records), command, err != nil, time.Since(started))
	return out, err
}

func (c Call) call(command string, conf config, req request) ([]byte, error) {
	switch command {
	case "ADD":
		return c.add(conf, req)
	case "DEL":
		return nil, c.del(conf, req)
	case "CHECK":
		return nil, c.check(conf, req)
	case "GC":
		return nil, c.collect(conf, req)
	}
	return nil, c.status(conf)
}

// speaks tells whether a command is of that version of the specification.
func speaks(version, command string) error {
	since := map[string]string{"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}[command]
	if since == "" || slices.Index(supported(), version) >= slices.Index(supported(), since) {
		return nil
	}
	return types.NewError(types.ErrIncompatibleCNIVersion,
		fmt.Sprintf("cniVersion %q knows no %s", version, command), "it came with "+since)
}
