/* An ordinary program. It looks for its password where programs look for passwords, says what it
 * found, and goes to work. Nothing in it knows of kernelseal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
    const char *password = getenv("DB_PASSWORD");
    printf("demo-app: environment DB_PASSWORD=%s\n", password ? password : "(not there)");

    const char *dir = getenv("KERNELSEAL_SECRETS_DIR");
    if (dir) {
        char path[512], text[256] = "";
        snprintf(path, sizeof path, "%s/DB_PASSWORD", dir);
        FILE *file = fopen(path, "r");
        if (file && fgets(text, sizeof text, file))
            printf("demo-app: file %s: %s\n", path, text);
        else
            printf("demo-app: file %s: (not there)\n", path);
        if (file)
            fclose(file);
    }
    fflush(stdout);
    sleep(600);
    return 0;
}
