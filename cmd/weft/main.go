// Command weft is the CNI plugin: a container runtime starts it to attach pods
// to the node's overlay.
package main

import (
	"os"

	"github.com/weftnet/weft/pkg/cniplugin"
	"github.com/weftnet/weft/pkg/version"
)

func main() {
	os.Exit(cniplugin.Main(cniplugin.Call{
		Getenv: os.Getenv,
		Stdin:  os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Version: version.Short,
	}))
}
