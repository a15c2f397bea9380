# At login on the device's console. After a change of the window's size, type `resize`.
if [ "$(tty)" = /dev/console ]; then
  resize
  cat /etc/motd
fi
