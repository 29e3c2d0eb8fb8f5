package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
)

const (
	initCommand = "init"
	// Files in the node's directory. The sockets connect two network namespaces: in the file system there is only one.
	apiSocket    = "api.sock"
	egressSocket = "egress.sock"
	lockFile     = "lock"
	pidFile      = "init.pid"
)

// run makes the namespaces and stays outside of them, as the part of the node that can reach the API server.
//
// When this process ends, for whatever reason, PID 1 of the node notices it by a pipe, ends everything in the namespaces
// and removes the control groups. When PID 1 ends, the kernel ends everything else, and this process removes the groups.
// When both are killed at once, only empty groups remain, which the next node removes.
func run(directory, apiServer string) error {
	cgroup := fmt.Sprint(cgroupPrefix, os.Getpid())
	removeAbandonedCgroups()
	// Names of sockets must be short, so they are relative.
	if err := os.Chdir(directory); err != nil {
		return err
	}
	if err := createCgroups(cgroup); err != nil {
		return err
	}
	defer removeCgroups(cgroup)
	listener, err := net.Listen("unix", apiSocket)
	if err != nil {
		return err
	}
	go relay(listener, func(net.Conn) (net.Conn, error) { return net.Dial("tcp", apiServer) })

	process := exec.Command("/proc/self/exe", initCommand, directory, cgroup, apiServer)
	process.Stderr = os.Stderr
	process.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		// Out of the process group that ends with whoever started this process: PID 1 has to clean up first.
		Setsid: true,
	}
	// Held open until this process ends.
	lifeline, err := process.StdinPipe()
	if err != nil {
		return err
	}
	defer lifeline.Close()
	ready, err := process.StdoutPipe()
	if err != nil {
		return err
	}
	if err := process.Start(); err != nil {
		return fmt.Errorf("making namespaces: %w", err)
	}
	// A byte once the node is prepared, the end of the file if it can't be.
	if _, err := io.ReadFull(ready, make([]byte, 1)); err == nil {
		// Whole or not at all: others wait for it.
		err := errors.Join(
			os.WriteFile(pidFile+".unfinished", fmt.Append(nil, process.Process.Pid), 0o600),
			os.Rename(pidFile+".unfinished", pidFile))
		if err != nil {
			return err
		}
	}
	return process.Wait()
}

// relay connects each accepted connection with one that dial makes.
func relay(listener net.Listener, dial func(accepted net.Conn) (net.Conn, error)) {
	for {
		accepted, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer accepted.Close()
			dialed, err := dial(accepted)
			if err != nil {
				return
			}
			defer dialed.Close()
			done := make(chan struct{})
			go func() {
				copyAndClose(dialed, accepted)
				close(done)
			}()
			copyAndClose(accepted, dialed)
			<-done
		}()
	}
}

// copyAndClose passes the end on: a connection may be closed in one direction and used in the other.
func copyAndClose(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite()
		return
	}
	_ = to.Close()
	_ = from.Close()
}
