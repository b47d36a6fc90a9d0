// The seccomp profile that containerd, and with it Kubernetes, calls the runtime's default.
//
// Reads config.json of an OCI bundle, writes it with that profile, which depends on its capabilities.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func main() {
	var spec specs.Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		log.Fatal(err)
	}
	spec.Linux.Seccomp = seccomp.DefaultProfile(&spec)
	if err := json.NewEncoder(os.Stdout).Encode(&spec); err != nil {
		log.Fatal(err)
	}
}
