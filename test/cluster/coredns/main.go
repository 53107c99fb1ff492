// Command coredns is CoreDNS with the plugins that a cluster of ours needs. It
// is a module of its own, so that what CoreDNS asks for moves no version of
// what Kubernetes is built from.
package main

import (
	_ "github.com/coredns/coredns/plugin/cache"      // of the Corefile
	_ "github.com/coredns/coredns/plugin/errors"     // of the Corefile
	_ "github.com/coredns/coredns/plugin/forward"    // of what Kubernetes' cases configure
	_ "github.com/coredns/coredns/plugin/health"     // of the Corefile
	_ "github.com/coredns/coredns/plugin/hosts"      // of what Kubernetes' cases configure
	_ "github.com/coredns/coredns/plugin/kubernetes" // of the Corefile
	_ "github.com/coredns/coredns/plugin/log"        // of what Kubernetes' cases configure
	_ "github.com/coredns/coredns/plugin/ready"      // of the Corefile
	_ "github.com/coredns/coredns/plugin/reload"     // of the Corefile

	"github.com/coredns/coredns/coremain"
)

func main() { coremain.Run() }
