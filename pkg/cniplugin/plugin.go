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
// and to masquerade (weftd does). CHECK, GC and STATUS are not spoken yet.
package cniplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
	"github.com/weftnet/weft/pkg/subnetenv"
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
	out, err := c.serve(command, version, stdin)
	if err == nil {
		_, err = c.Stdout.Write(out)
	}
	if err != nil {
		return fail(c.Stdout, version, err)
	}
	return 0
}

func (c Call) serve(command, version string, stdin []byte) ([]byte, error) {
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
	req, err := parseArgs(command, c.Getenv)
	if err != nil {
		return nil, err
	}
	if command == "DEL" {
		return nil, c.del(conf, req)
	}
	return c.add(conf, req)
}

// add attaches a pod, or has the delegate do so.
func (c Call) add(conf config, req request) ([]byte, error) {
	env, err := readEnv(conf.subnetFile)
	if err != nil {
		return nil, err
	}
	if conf.delegation == nil {
		return attach(conf, req, env, nil)
	}
	rendered, err := conf.delegation.render(env)
	if err != nil {
		return nil, err
	}
	own, foreign := rendered.inProcess(conf, req.args)
	if foreign == "" && own.needMasq && !env.IPMasq {
		foreign = "ipMasq, as weftd runs without --ip-masq"
	}
	if foreign == "" {
		// What DEL need not undo: weftd masquerades.
		rendered["ipMasq"] = json.RawMessage("false")
		return attach(own, req, env, rendered)
	}
	// The delegate may fail half way, so that DEL has to find this.
	if err := savedOf(conf.stateDir, req).put(rendered, true); err != nil {
		return nil, err
	}
	out, err := execute("ADD", req, rendered, c.Stderr)
	return out, explainAbsent(err, foreign)
}

// attach attaches a pod. What it did is undone when any step goes wrong, the
// address last: it is not free while an interface may have it. toSave is nil
// where DEL needs nothing.
func attach(conf config, req request, env subnetenv.Env, toSave document) (out []byte, err error) {
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
	a, file := plan(conf, req, env, addrs), savedOf(conf.stateDir, req)
	paired := false
	defer func() {
		if err == nil {
			return
		}
		errUndo := k.undo(a, paired)
		if errUndo == nil {
			_, errUndo = store.Release(holder)
		}
		if errUndo == nil && toSave != nil {
			errUndo = file.remove()
		}
		err = alsoUndo(err, errUndo)
	}()
	if toSave != nil {
		if err := file.put(toSave, false); err != nil {
			return nil, err
		}
	}
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

// del detaches a pod in the way in which it was attached, by us or by flannel's
// plugin, which was saved for all delegates. Without that it was we.
func (c Call) del(conf config, req request) error {
	file := savedOf(conf.stateDir, req)
	rendered, err := file.get(conf.network)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return detach(conf, req)
	case errors.As(err, new(*damagedError)):
		_, _ = fmt.Fprintf(c.Stderr, "weft: %v; what a delegate did for it can't be undone\n", err)
		err = detach(conf, req)
	case err != nil:
		return explainSaved(fmt.Errorf("read what was saved for %s: %w", req.holder(), err))
	default:
		err = c.delSaved(conf, req, rendered)
	}
	if err != nil {
		return err
	}
	return file.remove()
}

func (c Call) delSaved(conf config, req request, rendered document) error {
	own, local := rendered.local(conf)
	foreign := rendered.foreign("")
	if raw, there := rendered["ipMasq"]; foreign == "" && there && !off(raw) {
		foreign = "ipMasq" // a chain of iptables per pod
	}
	if foreign == "" {
		return detach(own, req)
	}
	_, err := execute("DEL", req, rendered, c.Stderr)
	if local && errors.As(err, new(*absentError)) {
		_, _ = fmt.Fprintf(c.Stderr, "weft: %v; what it did for %s may stay\n", err, foreign)
		return detach(own, req)
	}
	return explainAbsent(err, "")
}

// detach detaches a pod, whatever of it is left. The address is freed last: as
// long as an interface may have it, nobody else can.
func detach(conf config, req request) error {
	k, err := openHost()
	if err != nil {
		return err
	}
	defer k.close()
	if err := k.detach(hostName(conf.network, req), req); err != nil {
		return err
	}
	store := hostlocal.At(conf.dataDir, conf.network)
	held, _ := store.Held(req.holder()) // Release meets the same error
	if err := k.unproxy(conf.bridge, held); err != nil {
		return err
	}
	if _, err := store.Release(req.holder()); err != nil {
		return explainStore(err)
	}
	return nil
}

// request is what the environment says of one ADD or DEL.
type request struct {
	containerID, ifName string
	netns               string // a path; DEL may have none
	args, path          string // CNI_ARGS and CNI_PATH, for a delegate
}

func (r request) holder() hostlocal.Holder {
	return hostlocal.Holder{ContainerID: r.containerID, IfName: r.ifName}
}
