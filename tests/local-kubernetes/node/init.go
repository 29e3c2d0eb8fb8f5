package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// The same in each node, for none sees another's: RFC 1918 addresses in network namespaces of their own.
	nodeAddress  = "10.245.0.2"
	serviceRange = "10.96.0.0/16"
	// How long killed processes may take to end on a busy machine.
	endTimeout = 30 * time.Second
)

// initialize is PID 1 of the node: prepares its namespaces, then waits for the end of its starter and cleans up.
func initialize(directory, cgroup, apiServer string) error {
	if err := os.Chdir(directory); err != nil {
		return err
	}
	// Released by the kernel when this process ends: whoever removes the directory waits for that.
	lock, err := os.Create(lockFile)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if err := prepareMounts(); err != nil {
		return err
	}
	if err := prepareNetwork(); err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(apiServer)
	if err != nil {
		return err
	}
	// At the port that it has outside, so that the same kubeconfig serves in both places.
	toAPIServer, err := net.Listen("tcp4", ":"+port)
	if err != nil {
		return err
	}
	go relay(toAPIServer, func(net.Conn) (net.Conn, error) { return net.Dial("unix", apiSocket) })
	fromAPIServer, err := net.Listen("unix", egressSocket)
	if err != nil {
		return err
	}
	go relay(fromAPIServer, dialRequested)

	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	starterEnded := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(starterEnded)
	}()
	if _, err := os.Stdout.Write([]byte{'\n'}); err != nil {
		return err
	}
	for {
		select {
		case <-children:
			reap()
		case <-starterEnded:
			endAll()
			removeCgroups(cgroup)
			return nil
		}
	}
}

// prepareMounts hides the machine's directories that programs of a node write to. Their writes go to memory, but for
// containers and volumes, which the node's directory takes.
func prepareMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separating mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	for _, lower := range []string{"/etc", "/var/lib", "/var/log"} {
		upper, work := filepath.Join("/run/overlay", lower, "upper"), filepath.Join("/run/overlay", lower, "work")
		for _, directory := range []string{upper, work} {
			if err := os.MkdirAll(directory, 0o755); err != nil {
				return err
			}
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
		if err := unix.Mount("overlay", lower, "overlay", 0, options); err != nil {
			return fmt.Errorf("mounting %s: %w", lower, err)
		}
	}
	for _, name := range []string{"containerd", "kubelet"} {
		target := filepath.Join("/var/lib", name)
		if err := errors.Join(os.Mkdir(name, 0o755), os.MkdirAll(target, 0o755)); err != nil {
			return err
		}
		if err := unix.Mount(name, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", target, err)
		}
	}
	// It may be a link to what /run has hidden.
	_ = os.Remove("/etc/resolv.conf")
	resolver := "nameserver " + nodeAddress + "\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
	if err := os.WriteFile("/etc/resolv.conf", []byte(resolver), 0o644); err != nil {
		return err
	}
	// Volumes of pods are mounted by kubelet and seen by containerd.
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// prepareNetwork gives the node its address. There is no way out: no route leads anywhere but to pods and Services.
func prepareNetwork() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return err
	}
	address, err := netlink.ParseAddr(nodeAddress + "/32")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(loopback, address); err != nil {
		return err
	}
	// Rules that replace a Service's address by a pod's only see packets that have some route.
	services, err := netlink.ParseIPNet(serviceRange)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: loopback.Attrs().Index, Dst: services, Src: address.IP, Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("adding the route to Services: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

// dialRequested answers the CONNECT request with which the API server asks for a kubelet or a pod.
func dialRequested(accepted net.Conn) (net.Conn, error) {
	// The API server waits for the answer before it sends more: nothing is left behind in the reader.
	request, err := http.ReadRequest(bufio.NewReader(accepted))
	if err != nil {
		return nil, err
	}
	dialed, err := net.Dial("tcp", request.Host)
	status := "200 OK"
	if err != nil {
		status = "502 Bad Gateway"
	}
	if _, writeErr := fmt.Fprintf(accepted, "HTTP/1.1 %s\r\n\r\n", status); writeErr != nil && err == nil {
		_ = dialed.Close()
		return nil, writeErr
	}
	return dialed, err
}

// reap waits for children that have ended: those whose parents ended first become children of PID 1.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 || err != nil {
			return
		}
	}
}

// endAll kills every process of the PID namespace but this one, and waits until they are gone.
func endAll() {
	for deadline := time.Now().Add(endTimeout); time.Now().Before(deadline) && !isAlone(); time.Sleep(5 * time.Millisecond) {
		_ = unix.Kill(-1, unix.SIGKILL)
		reap()
	}
}

func isAlone() bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return true
	}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && pid != 1 {
			return false
		}
	}
	return true
}
