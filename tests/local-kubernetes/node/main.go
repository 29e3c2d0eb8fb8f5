// Node holds the namespaces in which a Kubernetes node of the tests lives.
//
//	node run DIRECTORY ADDRESS   until it is killed: make the namespaces, connect them with the API server at ADDRESS
//	node image                   write a container image, described on stdin
//	node pause                   what runs in the sandbox of each pod
//	node version
//
// tests/support starts `node run` and, by nsenter, the programs of the node. Nothing outlives it: see run.go.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Set at link time.
var version string

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

func command(arguments []string) error {
	switch {
	case len(arguments) == 3 && arguments[0] == "run":
		return run(arguments[1], arguments[2])
	case len(arguments) == 4 && arguments[0] == initCommand:
		return initialize(arguments[1], arguments[2], arguments[3])
	case len(arguments) == 1 && arguments[0] == "image":
		return writeImage(os.Stdin)
	case len(arguments) == 1 && arguments[0] == "pause":
		return pause()
	case len(arguments) == 1 && arguments[0] == "version":
		fmt.Println(version)
		return nil
	}
	return fmt.Errorf("unknown command %q", arguments)
}

// Holds the namespaces of a pod until the container runtime ends it. PID 1 ends by no signal that it doesn't handle.
func pause() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	return nil
}
