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
// It refuses to run other programs, to talk to the daemon, and to masquerade
// (weftd does). CHECK, GC and STATUS are not spoken yet.
package cniplugin

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
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
const specVersion = "1.0.0"

// supported is the versions of CNI that we answer in.
func supported() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0"} }

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
	version := versionOf(stdin)
	out, err := serve(command, version, c.Getenv, stdin)
	if err == nil {
		_, err = c.Stdout.Write(out)
	}
	if err != nil {
		return fail(c.Stdout, version, err)
	}
	return 0
}

func serve(command, version string, getenv func(string) string, stdin []byte) ([]byte, error) {
	switch command {
	case "VERSION":
		return json.Marshal(struct {
			CNIVersion        string   `json:"cniVersion"`
			SupportedVersions []string `json:"supportedVersions"`
		}{version, supported()})
	case "ADD", "DEL":
	default:
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("CNI_COMMAND %q is not supported", command), "this version of weft speaks ADD, DEL and VERSION")
	}
	conf, err := parseConfig(stdin)
	if err != nil {
		return nil, err
	}
	req, err := parseArgs(command, getenv)
	if err != nil {
		return nil, err
	}
	if command == "DEL" {
		return nil, del(conf, req)
	}
	return add(conf, req)
}

// add attaches a pod. What it did is undone when any step goes wrong, the
// address last: it is not free while an interface may have it.
func add(conf config, req request) (out []byte, err error) {
	env, err := readEnv(conf.subnetFile)
	if err != nil {
		return nil, err
	}
	if err := conf.fits(env); err != nil {
		return nil, err
	}
	k, err := openPod(req.netns)
	if err != nil {
		return nil, err
	}
	defer k.close()
	store, holder := hostlocal.At(conf.dataDir, conf.network), req.holder()
	addrs, err := store.Reserve(holder, env.Subnets)
	if err != nil {
		return nil, explainStore(err)
	}
	a := plan(conf, req, env, addrs)
	paired := false
	defer func() {
		if err == nil {
			return
		}
		var errUndo error
		if paired {
			errUndo = k.removeHost(a.hostIf)
		}
		if errUndo == nil {
			_, errUndo = store.Release(holder)
		}
		err = alsoUndo(err, errUndo)
	}()
	bridge, err := k.ensureBridge(a.bridge)
	if err != nil {
		return nil, err
	}
	if err := k.createPair(a); err != nil {
		return nil, err
	}
	paired = true
	if err := k.connect(a, bridge); err != nil {
		return nil, err
	}
	return encode(result(a, bridge, req, conf.dns), conf.version)
}

// del detaches a pod, whatever of it is left. The address is freed last: as
// long as an interface may have it, nobody else can.
func del(conf config, req request) error {
	k, err := openHost()
	if err != nil {
		return err
	}
	defer k.close()
	if err := k.detach(hostName(conf.network, req), req); err != nil {
		return err
	}
	if _, err := hostlocal.At(conf.dataDir, conf.network).Release(req.holder()); err != nil {
		return explainStore(err)
	}
	return nil
}

// request is what the environment says of one ADD or DEL.
type request struct {
	containerID, ifName string
	netns               string // a path; DEL may have none
}

func (r request) holder() hostlocal.Holder {
	return hostlocal.Holder{ContainerID: r.containerID, IfName: r.ifName}
}
